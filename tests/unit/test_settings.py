"""Settings: a wrong or misspelt one is named, with the fix."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest

from framemesh import settings as module
from framemesh.errors import FramemeshError
from framemesh.settings import Settings, load, node_name, ttl_seconds
from services.reader.settings import ReaderSettings
from services.registrator.rules import Rule
from services.registrator.settings import RegistratorSettings
from services.router.router import RouterSettings


def test_without_any_settings_everything_is_on_this_machine() -> None:
    found = load(Settings)
    assert (found.nats_host, found.redis_host, found.redis_port) == ("nats://127.0.0.1:4222", "127.0.0.1", 6379)
    assert (found.ttl_bucket, found.frame_ttl, found.topic_stream) == ("15m", 900, "frames-stream")
    assert found.node == node_name()


def test_names_that_people_already_use_are_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "video_source": "rtsp://camera/1", "video_skip_frames": "2", "reader_type": "av",
        "master_url": "http://m:9333", "volume_url": "http://v:8080", "ttl_bucket": "2h", "nats_host": "n:4222",
        "topic_stream": "my-frames", "redis_host": "r", "redis_port": "6380", "routing_ttl": "20",
    }  # fmt: skip
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    found = load(ReaderSettings)
    assert {name: str(getattr(found, name)) for name in values} == values | {"routing_ttl": "20.0"}
    monkeypatch.setenv("REDIS_PORT", "7000")  # the environment wins, in capitals too
    assert load(ReaderSettings).redis_port == 7000


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("redis_port", "many", "setting redis_port: .*(it is 'many')"),
        ("redis_port", "70000", "setting redis_port: .*65535.*(it is '70000')"),
        ("ttl_bucket", "900", "setting ttl_bucket: want a number .* e.g. 15m (it is '900'). How long frames"),
        ("routing_ttl", "0", "setting routing_ttl: .*"),
        ("topic_stream", "a.b", "setting topic_stream: .*"),
        ("node", "a b", "setting node: .*"),
        ("log_level", "LOUD", "setting log_level: want DEBUG, INFO, WARNING or ERROR (it is 'LOUD')"),
    ],
)
def test_a_wrong_value_names_the_setting_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(FramemeshError, match=wanted.replace("(", r"\(").replace(")", r"\)")) as caught:
        load(Settings)
    assert "\n" not in str(caught.value)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("redis_port", "x")
    monkeypatch.setenv("health_port", "y")
    with pytest.raises(FramemeshError, match=r"setting redis_port: .*; setting health_port: "):
        load(Settings)


def test_what_is_required_is_asked_for() -> None:
    with pytest.raises(FramemeshError, match=r"setting video_source: Field required\. A file, or an address"):
        load(ReaderSettings)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nats_hosts", "nats_host"), ("REDIS_PROT", "redis_port"), ("ttl_buckets", "ttl_bucket"),
     ("video_skip_frame", "video_skip_frames"), ("Master_Urll", "master_url")],
)  # fmt: skip
@pytest.mark.parametrize("where", [".env", "environment"])
def test_a_misspelt_name_is_refused_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str, where: str
) -> None:
    if where == ".env":
        (tmp_path / ".env").write_text(f"{name}=1\n")
    else:
        monkeypatch.setenv(name, "1")
    with pytest.raises(FramemeshError) as caught:
        load(ReaderSettings, video_source="x")
    assert str(caught.value) == f"setting {name} ({where}) is not known; did you mean {meant}?"


def test_names_that_have_nothing_to_do_with_it_are_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DJANGO_SECRET=1\nnats_user=me\nPATH_TO=x\n# a comment\nexport A=b\n")
    for name in ("KUBERNETES_PORT", "HOSTNAME", "NODE_NAME", "INSTANCE_ID", "LOG_FORMAT", "REDIS_PASSWORD"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:443")
    load(Settings)


def test_no_service_takes_the_setting_of_another_for_a_slip(every_settings: dict[str, type[Settings]]) -> None:
    """All services read one ``.env``, so no name may look like a misspelling of another service's."""
    slips = [
        (service, name, near[0])
        for service, settings in every_settings.items()
        for other in every_settings.values()
        for name in other.model_fields
        if name not in settings.model_fields
        and (near := difflib.get_close_matches(name, list(settings.model_fields), 1, module._MISSPELT))
    ]
    assert not slips


def test_the_services_agree_on_what_a_name_means(every_settings: dict[str, type[Settings]]) -> None:
    """The same name in two services has one type: they read it from one ``.env``."""
    types: dict[str, Any] = {}
    for settings in every_settings.values():
        for name, field in settings.model_fields.items():
            assert types.setdefault(name, field.annotation) == field.annotation, name


def test_every_setting_says_what_it_is(every_settings: dict[str, type[Settings]]) -> None:
    for service, settings in every_settings.items():
        for name, field in settings.model_fields.items():
            assert field.description, f"{service}.{name}"


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("1m", 60), ("15m", 900), ("4h", 14_400), ("3d", 259_200), ("2w", 1_209_600), ("255m", 15_300)],
)
def test_a_time_to_live_is_counted_in_seconds(ttl: str, seconds: float) -> None:
    assert ttl_seconds(ttl) == seconds


@pytest.mark.parametrize(
    "ttl", ["", "15", "m", "0m", "256m", "999w", "15s", "-1m", "1.5h", "15M", "15 m", "15m\n"]
)
def test_what_the_store_would_not_understand_is_no_time_to_live(ttl: str) -> None:
    with pytest.raises(ValueError, match="up to 255"):
        ttl_seconds(ttl)


@pytest.mark.parametrize(("given", "kind"), [("AVReader", "av"), ("OpenCVReader", "opencv"), ("auto", "auto")])
def test_a_reader_is_also_known_by_its_class(given: str, kind: str) -> None:
    assert load(ReaderSettings, video_source="a.mp4", reader_type=given).reader_type == kind


def test_a_setting_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("routes", "{")
    with pytest.raises(FramemeshError, match=r"^setting routes: not valid JSON \(it is '\{'\)\. Models by source"):
        load(RouterSettings)


@pytest.mark.parametrize("name", ["master_url", "volume_url", "s3_url"])
def test_addresses_that_others_see_hold_no_password(name: str) -> None:
    with pytest.raises(FramemeshError, match=f"setting {name}: leave user and password out") as caught:
        load(Settings, **{name: "http://bob:s3cret@host:1"})
    assert "s3cret" not in str(caught.value)


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(FramemeshError, match="setting event_rules: give every rule a name of its own"):
        load(RegistratorSettings, event_rules=[Rule(hits=1), Rule(hits=2)])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://admin:hunter2@cam.local:554/live?x=1", "cam-local-554-live"),
        ("rtsp://admin:secr?et@cam/s", "cam-s"),
        ("clips/Front door #1.mp4", "Front-door-1"),
    ],
)
def test_a_source_is_named_without_its_password(address: str, name: str) -> None:
    assert load(ReaderSettings, video_source=address).source_name == name


def test_no_source_has_the_name_of_what_becomes_of_media() -> None:
    assert load(ReaderSettings, video_source="/clips/media.mp4").source_name == "media-1"
    with pytest.raises(FramemeshError, match=r"source.*'media'"):
        load(ReaderSettings, video_source="a.mp4", source="media")


def test_a_password_in_the_path_is_no_part_of_the_name() -> None:
    address = "rtsp://10.0.0.5:554/user=admin_password=hunter2_channel=1"
    assert "hunter2" not in load(ReaderSettings, video_source=address).source_name
