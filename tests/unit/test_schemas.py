from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from framemesh import schemas, subjects
from framemesh.messages import (
    AudioTask,
    AudioWindow,
    Captured,
    Citation,
    Classification,
    DeadLetter,
    Detection,
    Event,
    EventState,
    Face,
    Finding,
    Frame,
    Gaze,
    HeadPose,
    Heartbeat,
    MediaEvent,
    MediaState,
    Medium,
    Message,
    Result,
    SearchHit,
    SearchKind,
    SearchReply,
    SearchRequest,
    Segment,
    SourceState,
    Task,
    Transition,
    Voice,
    Word,
)
from framemesh.schemas import ALL
from framemesh.steps.derivations import Derivation
from framemesh.steps.job import Job, JobStatus, Parent, StepState, StepStatus, StepTask, Work
from framemesh.steps.joblog import LogLine, LogLines
from framemesh.steps.lanes import Slot
from framemesh.steps.plan import Plan
from framemesh.steps.schedules import JobRequest, Schedule
from framemesh.steps.switchboard import FunctionState
from framemesh.steps.triggers import Subscription, TriggerEvent
from framemesh.subjects import Stream

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"

Node = dict[str, Any]

FRAME: Node = {
    "source": "door",
    "run": "r1",
    "seq": 7,
    "frame_id": "frame_000007",
    "url": "http://127.0.0.1:8080/3,01",
    "timestamp": 1_700_000_000.25,
    "width": 640,
    "height": 480,
    "bytes": 1234,
    "captured_at": 1_700_000_000.5,
}
AUDIO: Node = {
    "source": "door",
    "run": "r1",
    "seq": 1,
    "url": "http://127.0.0.1:8080/3,02",
    "timestamp": 1_700_000_000.25,
    "bytes": 160_044,
    "captured_at": 1_700_000_005.5,
    "duration": 5.0,
    "overlap": 0.5,
    "channel": 1,
}
FACE = Face(
    confidence=0.75,
    box=(1, 2, 3, 4),
    points=[(1, 2)] * 5,
    landmarks=[(1, 2)] * 66,
    expressions={"happy": 1.0},
    pose=HeadPose(yaw=1, pitch=2, roll=3),
    gaze=Gaze(yaw=0, pitch=0, eye_contact=True),
    missing={"smile": "the face is too small"},
)
VOICE = Voice(
    label="speech", confidence=0.5, duration_s=5, speech_s=3, speech_share=0.6, speech=[(1.5, 2.5)],
    pitch_contour_hz=[120.0, None],
)  # fmt: skip
SEGMENT = Segment(
    confidence=0.5, text="ask not", start=1, end=2, words=[Word(text="ask", start=1, end=1.5, confidence=0.5)]
)
RESULT = Result(
    model="DetectionInference",
    source="door",
    run="r1",
    seq=7,
    frame_id="frame_000007",
    timestamp=1.5,
    frame_url="http://127.0.0.1:8080/3,01",
    result=[
        Detection(label="person", class_id=0, confidence=0.75, box=(1, 2, 3, 4.5)),
        Classification(label="tabby", class_id=281, confidence=1, region=0),
        FACE,
        VOICE,
        SEGMENT,
        Finding(kind="brightness", label="dark", data={"mean": 12.5}),
    ],
    skipped={"small": 2},
    timing_ms={"infer": 1.25},
    captured_at=1.25,
    width=640,
    height=480,
    regions=[(0, 0, 10, 10)],
)
PLAN = Plan.model_validate(
    {
        "name": "greeting",
        "steps": {
            "greet": {"function": "greet", "over": "$input.names", "input": {"name": "$item"}, "timeout": 5},
            "more": {"plan": {"name": "sub", "steps": {"one": {"function": "shout"}}}, "after": ["greet"]},
        },
        "output": {"all": "$steps.greet"},
        "on_failure": {"function": "tell", "input": {"why": "$error"}},
    }
)
DONE = Work(status=StepStatus.DONE, attempt=2, started=1.5, ended=2.5, progress=100, worker="w", output={"a": [1]})
HIT: Node = {
    "kind": "event", "text": "person at gate", "snippet": "person at gate", "score": 0.5, "matched": ["words"],
    "media": None, "source": "gate", "title": "", "start": 1.5, "end": 2.5, "time": 1.5, "link": None,
}  # fmt: skip
MESSAGES: tuple[Message, ...] = (
    Frame(**FRAME),
    AudioWindow(**AUDIO),
    Captured(entries=["door.r1.000000000007.frame", "door.r1.000000000001.audio"]),
    Task(**FRAME, model="DetectionInference", stride=2, regions=[(0, 0, 10, 10)]),
    AudioTask(**AUDIO, model="VoiceInference", words=[Word(text="ask", start=1.5, end=1.75, confidence=0.5)]),
    RESULT,
    SourceState(source="door", run="r1", state="ended", frames=8, timestamp=2.5),
    Event(
        id="00000000-0000-5000-8000-0000000000e1",
        task_key=RESULT.task_key,
        source="door",
        run="r1",
        rule="person",
        label="person",
        counts={"person": 3},
        start=1.5,
        end=2.5,
        state=EventState.CREATED,
        transitions=[Transition(state=EventState.CREATED, timestamp=2.75)],
        message=RESULT,
    ),
    MediaEvent(media="talk", version=2, job="j", state=MediaState.READY, duration_s=11.0, timestamp=3.5),
    DeadLetter(
        stream="FRAMES",
        subject="frames-stream.door",
        stream_seq=1,
        consumer="router",
        reason="ValueError: no",
        origin="router-1",
        deliveries=5,
        headers={"Nats-Msg-Id": "door/r1/7"},
        payload="{}",
        timestamp=3.5,
    ),
    Heartbeat(kind="Router", instance="router-1", host="h", pid=1, started=1.5, version="0.1.0"),
    SearchRequest(q="who was at the gate?", kind=SearchKind.EVENT),
    SearchReply(hits=[SearchHit(**HIT)], answer="Ada [1].", citations=[Citation(**HIT, number=1)], model="m"),
    Job(
        id="1a20f347b0c963e4035e2c5",
        plan=PLAN,
        input={"names": ["Ada", "Grace"]},
        status=JobStatus.PROCESSING,
        steps={"greet": StepState(status=StepStatus.RUNNING, items=[DONE, Work(due=3.5)]), "more": StepState()},
        created=1.5,
        parent=Parent(job="p", step="more", attempt=1),
    ),
    StepTask(job="1a20f347b0c963e4035e2c5", step="greet", item=1, attempt=1, function="greet"),
    JobRequest(plan=PLAN, input={"names": []}, owner="ada", key="k"),
    Schedule(plan=PLAN, name="nightly", cron="30 2 * * *", zone="Europe/Berlin"),
    TriggerEvent(input={"names": []}, owner="ada", key="k"),
    Subscription(trigger="guests.arrived", plan=PLAN),
    FunctionState(name="greet", timeout=10, concurrency=2, rate=0.5),
    Slot(number=1),
    LogLines(
        job="1a20f347b0c963e4035e2c5", step="greet", item=0, attempt=1,
        lines=[LogLine(time=1.5, level="INFO", text="greeting Ada")],
    ),
    Derivation(output={"text": "Hello"}, job="1a20f347b0c963e4035e2c5", until=3.5),
)  # fmt: skip


WRONG: tuple[Any, ...] = (None, -1, "", [], {"no": 1}, "a b", 1e9, 0.5)


# -- a validator of just the keywords that the schemas use; another keyword is an error --------------------

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
FIELDS = {"properties", "patternProperties", "additionalProperties"}
NOTES = {"$schema", "$id", "$defs", "title", "description", "default"}


def problems(value: Any, schema: Node, root: Node, path: str = "$") -> Iterator[str]:
    yield from _object(value, schema, root, path)
    for keyword, wanted in schema.items():
        if keyword not in NOTES | FIELDS:
            yield from CHECKS[keyword](value, wanted, root, path)


def _type(value: Any, wanted: str, _: Node, path: str) -> Iterator[str]:
    whole = wanted == "integer" and isinstance(value, float) and value.is_integer()  # 1.0 is an integer in JSON
    if not (whole or isinstance(value, TYPES[wanted])) or (isinstance(value, bool) and wanted != "boolean"):
        yield f"{path}: {value!r} is no {wanted}"


def _ref(value: Any, wanted: str, root: Node, path: str) -> Iterator[str]:
    yield from problems(value, resolved(root, wanted), root, path)


def _any_of(value: Any, wanted: list[Node], root: Node, path: str) -> Iterator[str]:
    if all(list(problems(value, schema, root, path)) for schema in wanted):
        yield f"{path}: {value!r} is none of the alternatives"


def _one_of(value: Any, wanted: list[Node], root: Node, path: str) -> Iterator[str]:
    fitting = sum(not list(problems(value, schema, root, path)) for schema in wanted)
    if fitting != 1:
        yield f"{path}: {value!r} is {fitting} of the alternatives"


def _not(value: Any, wanted: Node, root: Node, path: str) -> Iterator[str]:
    if not list(problems(value, wanted, root, path)):
        yield f"{path}: {value!r} is what it must not be"


def _object(value: Any, schema: Node, root: Node, path: str) -> Iterator[str]:
    """What a schema says of the fields of an object: its keywords for them depend on each other."""
    if not isinstance(value, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in value.items():
        rules = (
            [named[name]] if name in named else [rule for key, rule in patterns.items() if re.search(key, name)]
        )
        other = schema.get("additionalProperties", True)
        if not rules and other is False:
            yield f"{path}: {name!r} is no field of it"
        for rule in rules or [other]:
            if isinstance(rule, dict):
                yield from problems(item, rule, root, f"{path}.{name}")


def _items(value: Any, wanted: Node, root: Node, path: str) -> Iterator[str]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield from problems(item, wanted, root, f"{path}[{index}]")


def _prefix(value: Any, wanted: list[Node], root: Node, path: str) -> Iterator[str]:
    for index, (item, schema) in enumerate(zip(value, wanted, strict=False)):
        yield from problems(item, schema, root, f"{path}[{index}]")


def _holds(test: Any) -> Any:
    def check(value: Any, wanted: Any, _: Node, path: str) -> Iterator[str]:
        try:
            holds = test(value, wanted)
        except TypeError:  # the type is another keyword's business
            return
        if not holds:
            yield f"{path}: {value!r} breaks {wanted!r}"

    return check


CHECKS: dict[str, Any] = {
    "type": _type,
    "$ref": _ref,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "items": _items,
    "prefixItems": _prefix,
    "required": _holds(lambda value, names: not isinstance(value, dict) or set(names) <= set(value)),
    "enum": _holds(lambda value, values: value in values),
    "const": _holds(lambda value, one: value == one),
    "pattern": _holds(lambda value, pattern: re.search(pattern, value)),
    "minimum": _holds(lambda value, least: value >= least),
    "maximum": _holds(lambda value, most: value <= most),
    "exclusiveMinimum": _holds(lambda value, least: value > least),
    "minItems": _holds(lambda value, least: len(value) >= least),
    "maxItems": _holds(lambda value, most: len(value) <= most),
    "minProperties": _holds(lambda value, least: not isinstance(value, dict) or len(value) >= least),
    "maxProperties": _holds(lambda value, most: not isinstance(value, dict) or len(value) <= most),
    "maxLength": _holds(lambda value, most: len(value) <= most),
    "minLength": _holds(lambda value, most: len(value) >= most),
}


def resolved(root: Node, reference: str) -> Node:
    """What a reference within a document points at; KeyError where that is nothing."""
    assert reference.startswith("#/")
    node = root
    for part in reference[2:].split("/"):
        node = node[part]
    return node


def nodes(node: Any) -> Iterator[Node]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def schema_file(model: type[Message]) -> Node:
    loaded: Node = json.loads((PROTO / f"{schemas.slug(model)}.schema.json").read_text("utf-8"))
    return loaded


def document() -> Node:
    loaded: Node = yaml.safe_load((PROTO / "asyncapi.yaml").read_text("utf-8"))
    return loaded


# -- JSON Schema -------------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_code() -> None:
    assert schemas.drifted(PROTO) == [], "run `make generate`"


@pytest.mark.parametrize("model", ALL)
def test_a_schema_says_what_it_is(model: type[Message]) -> None:
    schema = schema_file(model)
    assert list(schema)[:4] == ["$schema", "$id", "title", "description"]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:framemesh:message:{schemas.slug(model)}"
    assert schema["title"] == model.__name__
    assert schema["type"] == "object"
    assert set(schema.get("required", ())) == {
        name for name, field in model.model_fields.items() if field.is_required()
    }


@pytest.mark.parametrize("model", ALL)
def test_a_schema_is_well_formed(model: type[Message]) -> None:
    schema = schema_file(model)
    for node in nodes(schema):
        if isinstance(node.get("$ref"), str):
            resolved(schema, node["$ref"])
        if isinstance(node.get("type"), str):
            assert node["type"] in TYPES
        if isinstance(node.get("pattern"), str):
            re.compile(node["pattern"])
        if isinstance(node.get("required"), list):
            assert set(node["required"]) <= set(node["properties"])


def test_every_message_has_an_example_here() -> None:
    assert tuple(type(message) for message in MESSAGES) == ALL


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_real_message_validates(message: Message) -> None:
    schema = schema_file(type(message))
    assert list(problems(json.loads(message.model_dump_json()), schema, schema)) == []


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_the_schema_and_the_model_refuse_alike(message: Message) -> None:
    schema = schema_file(type(message))
    good = json.loads(message.model_dump_json())
    for name in good:
        for wrong in WRONG:
            changed = good | {name: wrong}
            try:
                type(message).model_validate_json(json.dumps(changed))
            except ValidationError:
                taken = False
            else:
                taken = True
            assert (not list(problems(changed, schema, schema))) == taken, (name, wrong)


@pytest.mark.parametrize(
    ("change", "path"),
    [({"source": "two words"}, "$.source"), ({"width": 0}, "$.width"), ({"regions": [[1, 2, 3]]}, "$.regions")],
)
def test_the_schema_of_a_task_refuses(change: Node, path: str) -> None:
    schema = schema_file(Task)
    task = json.loads(next(each for each in MESSAGES if type(each) is Task).model_dump_json()) | change
    assert [problem.partition(":")[0] for problem in problems(task, schema, schema)] == [path]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": "two words"}, "$.plan.name"),
        ({"steps": {}}, "$.plan.steps"),
        ({"steps": {"two words": {"function": "greet"}}}, "$.plan.steps"),
        ({"steps": {"greet": {"function": "greet", "aftre": []}}}, "$.plan.steps.greet"),
    ],
)
def test_the_schema_of_a_plan_refuses_as_the_model_does(change: Node, path: str) -> None:
    schema = schema_file(JobRequest)
    request = {"plan": PLAN.model_dump(mode="json") | change}
    assert [problem.partition(":")[0] for problem in problems(request, schema, schema)] == [path]
    with pytest.raises(ValidationError):
        JobRequest.model_validate(request)


def test_a_state_as_it_is_written_validates() -> None:
    schema = schema_file(Job)
    job = next(each for each in MESSAGES if type(each) is Job)
    assert list(problems(json.loads(job.model_dump_json(exclude_defaults=True)), schema, schema)) == []


# -- AsyncAPI ----------------------------------------------------------------------------------------------


def test_every_reference_resolves() -> None:
    api = document()
    references = [node["$ref"] for node in nodes(api) if isinstance(node.get("$ref"), str)]
    assert len(references) > 50
    for reference in references:
        if reference.startswith("#/"):
            resolved(api, reference)
        else:
            assert (PROTO / reference).is_file()


def test_the_operations_use_messages_of_their_channels() -> None:
    api = document()
    for operation in api["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")


NOT_OF_THE_HOUSE = {"subscriber", "client", "service"}
"""Anybody who listens, anybody who wants jobs, and every service."""


def test_every_channel_is_used() -> None:
    api = document()
    used = {operation["channel"]["$ref"].rpartition("/")[2] for operation in api["operations"].values()}
    assert used == set(api["channels"])
    assert {tag["name"] for node in api["operations"].values() for tag in node["tags"]} > NOT_OF_THE_HOUSE


def test_the_services_are_those_of_the_house() -> None:
    tags = {tag["name"] for node in document()["operations"].values() for tag in node["tags"]}
    for service in tags - NOT_OF_THE_HOUSE:
        assert (ROOT / "services" / service / "__main__.py").is_file()


def all_streams() -> list[Stream]:
    declared = [value for value in vars(subjects).values() if isinstance(value, Stream)]
    tasks = [stream for medium in Medium for stream in subjects.task_streams("{model}", medium)]
    return [*declared, subjects.frames_stream("frames-stream", 900), subjects.audio_stream(900), *tasks]


def lies_on(address: str, subject: str) -> bool:
    """Whether a subject, with wildcards, is that of a channel."""
    wanted = subject.split(".")
    tokens = [
        "*" if re.fullmatch(r"{\w+}", token) and token not in subject else token for token in address.split(".")
    ]
    same = len(tokens) == len(wanted) and all(w in {"*", t} for t, w in zip(tokens, wanted, strict=True))
    return same or (wanted[-1] == ">" and len(tokens) >= len(wanted) and tokens[: len(wanted) - 1] == wanted[:-1])


@pytest.mark.parametrize("stream", all_streams(), ids=lambda stream: stream.name)
def test_every_subject_of_every_stream_has_a_channel(stream: Stream) -> None:
    most = (
        max(stream.config.max_msgs_per_subject or 0, 0) or None
    )  # the queues of models that look and of those that listen differ
    kept = [
        node
        for node in document()["channels"].values()
        if node.get("x-jetstream", {}).get("stream") == stream.name
        and node["x-jetstream"].get("max_messages_per_subject") == most
    ]
    found = {
        subject: [node["address"] for node in kept if lies_on(node["address"], subject)]
        for subject in stream.config.subjects or []
    }
    assert all(found.values()), found
    assert sorted({address for addresses in found.values() for address in addresses}) == sorted(
        {node["address"] for node in kept}
    )
    for node in kept:
        assert f"`{stream.name}`" in node["description"]
        assert node["x-jetstream"]["subjects"] == stream.config.subjects


def test_what_is_republished_has_a_channel() -> None:
    channels = document()["channels"]
    republished = [stream.config.republish for stream in all_streams() if stream.config.republish]
    assert {re.sub(r"{{wildcard\(\d\)}}", "*", str(each.dest)) for each in republished} == {
        re.sub(r"{\w+}", "*", node["address"]) for node in channels.values() if "x-jetstream" not in node
    }
    assert channels["resultsFeed"]["address"] == subjects.RESULTS_FEED


def test_only_messages_that_always_carry_a_header_require_it() -> None:
    messages = document()["components"]["messages"]
    identity = {
        name for name, node in messages.items() if "Nats-Msg-Id" in node.get("headers", {}).get("required", [])
    }
    assert identity == {
        "Captured", "Frame", "AudioWindow", "Task", "AudioTask", "Result", "RepublishedResult", "Event",
        "SourceState", "MediaEvent", "DeadLetter", "StepTaskLater", "Slot",
    }  # fmt: skip
    assert "headers" not in messages["LogLines"]


def test_the_parameters_are_those_of_the_addresses() -> None:
    for channel in document()["channels"].values():
        assert list(channel.get("parameters", {})) == re.findall(r"{(\w+)}", channel["address"])


def test_the_yaml_is_read_as_it_was_meant() -> None:
    assert document() == json.loads(json.dumps(schemas.asyncapi()))
    text = (PROTO / "asyncapi.yaml").read_text("utf-8")
    assert not re.search(r"[&*]id\d", text)
    assert max(len(line) for line in text.splitlines()) < 130


# -- the tool ----------------------------------------------------------------------------------------------


def test_writing_then_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "proto"
    assert schemas.main([str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ALL) + 1
    assert schemas.main([str(folder), "--check"]) == 0
    assert schemas.main([str(folder)]) == 0
    assert capsys.readouterr().out == ""


def test_drift_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schemas.write(tmp_path)
    (tmp_path / "frame.schema.json").write_text("{}\n")
    (tmp_path / "task.schema.json").unlink()
    (tmp_path / "old.schema.json").write_text('{"$id": "urn:framemesh:message:old"}\n')
    (tmp_path / "theirs.schema.json").write_text("{}\n")
    assert schemas.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path} has drifted from the code: frame.schema.json, old.schema.json, task.schema.json; "
        "run `make generate`\n"
    )
    schemas.write(tmp_path)
    assert schemas.drifted(tmp_path) == []
    assert (tmp_path / "theirs.schema.json").read_text() == "{}\n"
    assert not (tmp_path / "old.schema.json").exists()


def test_without_pyyaml_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *rest, **more)

    schemas.files.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert schemas.main([str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == "asyncapi.yaml needs PyYAML: run `pip install pyyaml`\n"


@pytest.mark.parametrize(
    ("model", "name"), [(Frame, "frame"), (SourceState, "source-state"), (DeadLetter, "dead-letter")]
)
def test_file_names(model: type[Message], name: str) -> None:
    assert schemas.slug(model) == name
