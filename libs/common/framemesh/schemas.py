"""The wire as files for other languages: a JSON Schema of every message, and AsyncAPI for where they travel.

``python -m framemesh.schemas proto`` writes them; with ``--check`` it says which have drifted from the code. Both
are made from ``messages``, the messages of ``steps`` and ``subjects`` alone, so a subject or a stream is never
described twice. A tool for developers: it needs PyYAML, which the services do not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from framemesh import __version__, subjects
from framemesh.errors import FramemeshError
from framemesh.headers import CARRIED_JOB, EXPECTED, FOLLOWS, MSG_ID
from framemesh.messages import (
    WIRE,
    AudioTask,
    AudioWindow,
    Captured,
    DeadLetter,
    Event,
    Frame,
    Heartbeat,
    MediaEvent,
    Medium,
    Message,
    Result,
    SourceState,
    Task,
)
from framemesh.settings import Settings, ttl_seconds
from framemesh.steps.derivations import Derivation
from framemesh.steps.job import Job, StepTask
from framemesh.steps.joblog import LogLines
from framemesh.steps.lanes import Slot
from framemesh.steps.schedules import JobRequest, Schedule
from framemesh.steps.switchboard import FunctionState
from framemesh.steps.triggers import Subscription, TriggerEvent
from framemesh.subjects import Stream

DIALECT = "https://json-schema.org/draft/2020-12/schema"
URN = "urn:framemesh:message:"
DUPLICATE_WINDOW = 120.0
"""Seconds that the server takes where a stream says nothing."""
ASYNCAPI = "asyncapi.yaml"
SUFFIX = ".schema.json"

JOBS_WIRE: tuple[type[Message], ...] = (
    Job,
    StepTask,
    JobRequest,
    Schedule,
    TriggerEvent,
    Subscription,
    FunctionState,
    Slot,
    LogLines,
    Derivation,
)
"""What travels for durable jobs."""
ALL = WIRE + JOBS_WIRE

TRACE_PATTERN = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

Node = dict[str, Any]
"""A mapping of a JSON or YAML document."""

_SETTINGS = Settings.model_fields
_TOPIC: str = _SETTINGS["topic_stream"].default
_FRAMES = subjects.frames_stream(_TOPIC, ttl_seconds(_SETTINGS["ttl_bucket"].default))
_AUDIO = subjects.audio_stream(ttl_seconds(_SETTINGS["ttl_bucket"].default))
_LIVE, _LOSSLESS = subjects.task_streams("{model}")
_LIVE_AUDIO, _LOSSLESS_AUDIO = subjects.task_streams("{model}", Medium.AUDIO)

_PARAMETERS = {
    "node": "Name of the machine whose spool holds the frame (setting `node`)",
    "source": "Name of the camera or file (setting `source`)",
    "model": "Kind of the model worker, e.g. DetectionInference",
    "stream": "Stream that the message could not leave alive",
    "subject": "Subject that the message came on, all of its tokens",
    "job": "Id of the job",
    "place": "Name of the step, with `:<item>` for one of its items",
    "function": "Name of the function, as registered by `@step`",
    "priority": "`high`, `normal` or `low`",
    "name": "Name of the schedule; of a trigger any name",
    "number": "Which of the function's slots, counted from 0",
    "trigger": "Name of a trigger, up to four words with dots between them: media.uploaded",
    "scope": "What an output is remembered with, such as a medium",
    "digest": "Hash of the input",
}
_NOTHING_THERE = "`0`: refused where a message lies on the subject"
_NEWEST = "Sequence of the state that this one follows, `0` for the first: refused when there is a newer one"


@dataclass(frozen=True)
class Channel:
    """A subject with its parameters, the stream that keeps it and the message that travels on it."""

    name: str
    address: str
    stream: Stream
    message: type[Message]
    text: str
    msg_id: str = ""
    """What Nats-Msg-Id is; empty where messages carry none."""
    traced: bool = True
    feed: bool = False
    """Republished by the server: a plain subject, for plain subscribers."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers that every message carries, with what they are."""
    options: dict[str, str] = field(default_factory=dict)
    """Those that only some carry."""
    variant: str = ""
    """Tells messages of one kind with other headers apart."""


@dataclass(frozen=True)
class Operation:
    """What one service does with one channel."""

    service: str
    action: str
    channel: str
    text: str


CHANNELS = (
    Channel(
        "captured",
        subjects.captured("{node}"),
        subjects.CAPTURED,
        Captured,
        "A frame lies in the node's spool. The spool is the truth: what is lost here is found there.",
        "<source>/<run>/<seq>",
    ),
    Channel(
        "frames",
        subjects.frames(_TOPIC, "{source}"),
        _FRAMES,
        Frame,
        "A frame is stored: its claim check. The setting `topic_stream` names the first token and the stream; "
        "the setting `ttl_bucket` says how long both claim check and frame are kept.",
        "<source>/<run>/<seq>",
    ),
    Channel(
        "audio",
        subjects.audio("{source}"),
        _AUDIO,
        AudioWindow,
        "A few seconds of a source's sound are stored: their claim check. Kept as long as frames are.",
        "<source>/<run>/<seq>",
    ),
    Channel(
        "tasks",
        subjects.tasks("{model}", "{source}", lossless=False),
        _LIVE,
        Task,
        "A frame for a model, live. A newer frame of the source takes the place of one that still waits.",
        "<source>/<run>/<seq>/<model>",
    ),
    Channel(
        "tasksLossless",
        subjects.tasks("{model}", "{source}", lossless=True),
        _LOSSLESS,
        Task,
        "A frame for a model, none left out. A full queue refuses, and so holds up the reader.",
        "<source>/<run>/<seq>/<model>",
    ),
    Channel(
        "audioTasks",
        subjects.tasks("{model}", "{source}", lossless=False),
        _LIVE_AUDIO,
        AudioTask,
        "An audio window for a model that listens, live. The oldest of many that wait is dropped.",
        "<source>/<run>/<seq>/<model>",
    ),
    Channel(
        "audioTasksLossless",
        subjects.tasks("{model}", "{source}", lossless=True),
        _LOSSLESS_AUDIO,
        AudioTask,
        "An audio window for a model that listens, none left out.",
        "<source>/<run>/<seq>/<model>",
    ),
    Channel(
        "results",
        subjects.results("{model}", "{source}"),
        subjects.RESULTS,
        Result,
        "What a model found in a frame or an audio window. A redelivered task gives the same Nats-Msg-Id, so one "
        "result is kept.",
        "<source>/<run>/<seq>/<model>",
    ),
    Channel(
        "resultsFeed",
        subjects.RESULTS_FEED,
        subjects.RESULTS,
        Result,
        "Every result, as the server republishes it: subscribe without JetStream. At most once, with no memory.",
        "<source>/<run>/<seq>/<model>",
        feed=True,
    ),
    Channel(
        "events",
        subjects.events("{source}"),
        subjects.EVENTS,
        Event,
        "An event took a step of its life: CREATED, PENDING, DONE, FINISHED, or ERROR. Each step is told once.",
        "<event id>/<state>",
        traced=False,
    ),
    Channel(
        "mediaEvents",
        subjects.events("media"),
        subjects.EVENTS,
        MediaEvent,
        "A medium can be played, could not be made, or was deleted. `kind` tells it from an event of a source "
        "that is called media.",
        "<media>/<job>/<state>",
        traced=False,
    ),
    Channel(
        "sources",
        subjects.source_state("{source}"),
        subjects.SOURCES,
        SourceState,
        "A source's run started, ended or failed; settled once every one of its results is accounted for.",
        "<source>/<run>/<state>",
        traced=False,
    ),
    Channel(
        "dead",
        subjects.dead("{stream}", "{subject}"),
        subjects.DEADLETTERS,
        DeadLetter,
        "A message that could not be processed, with the reason. Its own headers are in the letter.",
        "<stream>/<stream sequence>/<consumer>",
        traced=False,
    ),
    Channel(
        "jobStates",
        subjects.job_state("{job}"),
        subjects.JOBS,
        Job,
        "The newest state of a job, whole; fields that have their default are left out. It is replaced under "
        "compare-and-set, and removed some time after the job has ended (setting `jobs_kept`).",
        traced=False,
        headers={EXPECTED: _NEWEST},
        options={MSG_ID: "Chance, of a first state whose step may bring it along"},
    ),
    Channel(
        "jobUpdates",
        subjects.job_updates("{job}"),
        subjects.JOBS,
        Job,
        "Every new state of a job, as the server republishes it: subscribe without JetStream. At most once, "
        "with no memory.",
        traced=False,
        feed=True,
        headers={EXPECTED: _NEWEST},
    ),
    Channel(
        "jobSteps",
        subjects.job_step("{function}", "{priority}", "{job}", "{place}"),
        subjects.JOBS,
        StepTask,
        "A step that is to be done now, until it is acked. One that lies here is not sent again.",
        traced=False,
        options={
            EXPECTED: f"{_NOTHING_THERE}; unless the server published it when it was due",
            FOLLOWS: "The state right before it has this id: the server takes it only there",
            CARRIED_JOB: "That state, so that whoever does the step need not read it",
            "Nats-Scheduler": "Subject of the schedule, where the server published the next try when it was due",
            "Nats-Schedule-Next": "`purge`, with Nats-Scheduler",
        },
    ),
    Channel(
        "jobRetries",
        subjects.job_retry("{job}", "{place}"),
        subjects.JOBS,
        StepTask,
        "The next try of a step, which the server publishes as a step when it is due, and then removes here.",
        "<job>/<place>/<attempt>/later",
        traced=False,
        headers={
            "Nats-Schedule": "`@at <time>`, RFC 3339",
            "Nats-Schedule-Target": f"`{subjects.job_step('{function}', '{priority}', '{job}', '{place}')}`",
        },
        variant="Later",
    ),
    Channel(
        "jobSchedules",
        subjects.job_schedule("{name}"),
        subjects.JOBS,
        Schedule,
        "A schedule, until it is removed. The server publishes it as a trigger each time that it is due.",
        traced=False,
        headers={
            "Nats-Schedule": "Six fields, the second first; or `@daily`, `@every 5m`",
            "Nats-Schedule-Target": f"`{subjects.job_trigger('{name}')}`",
        },
        options={"Nats-Schedule-Time-Zone": "Time zone, e.g. Europe/Berlin; not with `@every`"},
    ),
    Channel(
        "jobTriggers",
        subjects.job_trigger("{name}"),
        subjects.JOBS,
        JobRequest,
        "Asks for a job. Without a `key` in it each trigger makes one job. One that waits is replaced by a newer "
        "one of its name, so of several runs of a schedule that were missed one is made up for.",
        traced=False,
        options={
            "Nats-Scheduler": "Subject of the schedule, where the server published it",
            "Nats-Schedule-Next": "When the server does so next, RFC 3339",
        },
    ),
    Channel(
        "triggers",
        subjects.trigger("{trigger}"),
        subjects.TRIGGERS,
        TriggerEvent,
        "Something happened: it starts the plan that is subscribed to the trigger, whose name may have dots. It "
        "lies here until it is a job. A full stream refuses it. What cannot become a job, or whose job fails, is "
        "a dead letter.",
        traced=False,
        options={MSG_ID: "The same id within ten minutes: the same event"},
    ),
    Channel(
        "jobSubscriptions",
        subjects.job_subscription("{trigger}"),
        subjects.JOBS,
        Subscription,
        "The plan that a trigger starts, until it is removed.",
        traced=False,
    ),
    Channel(
        "derivations",
        subjects.derived("{scope}", "{function}", "{digest}"),
        subjects.DERIVATIONS,
        Derivation,
        "What a function gave for an input in a scope. `digest` is that of the input: SHA-256 of its JSON with "
        "sorted keys and no spaces, the first 32 hexadecimal digits.",
        traced=False,
    ),
    Channel(
        "jobSlots",
        subjects.job_slot("{function}", "{number}"),
        subjects.JOBS,
        Slot,
        "Who holds one of these may do a step of the function: there are as many as may be done at a time. Given "
        "back by a nak, never acked.",
        "<function>/<number>/<clock of who made it>",
        traced=False,
        headers={EXPECTED: _NOTHING_THERE},
    ),
    Channel(
        "jobFunctions",
        subjects.job_function("{function}"),
        subjects.JOBS,
        FunctionState,
        "What is known of a function that a worker has, or had, and what has been set: paused, how many at a "
        "time, how many a second. Replaced under compare-and-set.",
        traced=False,
        headers={EXPECTED: _NEWEST},
    ),
    Channel(
        "jobLogs",
        subjects.job_log("{job}", "{place}"),
        subjects.JOBLOGS,
        LogLines,
        "What the logger of one try of a step said, some lines at a time. It has no headers, so two "
        "copies may be kept.",
        traced=False,
    ),
)

_WORKERS, _ = subjects.worker_consumers("{model}")
_STEPS = subjects.step_consumer("{function}", "{priority}")
_BATCHES = f"Pulls with the durable consumer `{_WORKERS.name}`, which all workers of a model share."

OPERATIONS = (
    Operation("reader", "send", "captured", "After the frame is in the spool."),
    Operation("reader", "send", "sources", "When a run starts, ends or fails."),
    Operation(
        "uploader",
        "receive",
        "captured",
        f"Pulls with the durable consumer `{subjects.uploader_consumer('{node}').name}`.",
    ),
    Operation("uploader", "send", "frames", "After the JPEG is in SeaweedFS."),
    Operation("uploader", "send", "audio", "After the WAV is in SeaweedFS."),
    Operation(
        "router",
        "receive",
        "frames",
        f"Pulls with the durable consumer `{subjects.router_consumer(_FRAMES).name}`, which all routers share.",
    ),
    Operation(
        "router",
        "receive",
        "audio",
        f"Pulls with the durable consumer `{subjects.router_consumer(_AUDIO).name}`, which all routers share.",
    ),
    Operation(
        "router",
        "receive",
        "results",
        f"Pulls with the durable consumer `{subjects.follower_consumer('{model}').name}` what models find that "
        "others follow.",
    ),
    Operation("router", "send", "tasks", "For live sources."),
    Operation("router", "send", "tasksLossless", "For lossless sources; tries again while the queue is full."),
    Operation("router", "send", "audioTasks", "For live sources."),
    Operation("router", "send", "audioTasksLossless", "For lossless sources."),
    *(
        operation
        for service, tasks in (
            ("detection", "tasks"),
            ("classification", "tasks"),
            ("face", "tasks"),
            ("voice", "audioTasks"),
            ("transcribe", "audioTasks"),
        )
        for operation in (
            Operation(service, "receive", tasks, _BATCHES),
            Operation(service, "receive", f"{tasks}Lossless", _BATCHES),
            Operation(service, "send", "results", "One for each task, empty where nothing was found."),
        )
    ),
    Operation(
        "registrator",
        "receive",
        "results",
        f"Pulls with the durable consumer `{subjects.registrator_consumer('{source}').name}`, whose ack floor is "
        "its checkpoint.",
    ),
    Operation(
        "registrator", "receive", "frames", "Reads back the frames of an event by time, without a consumer."
    ),
    Operation("registrator", "receive", "sources", "Looks up the last state, without a consumer."),
    Operation("registrator", "send", "events", "For every step of an event."),
    Operation("registrator", "send", "sources", "When a run is settled."),
    Operation("subscriber", "receive", "resultsFeed", "Anybody: a plain subscription."),
    Operation("subscriber", "receive", "events", "Anybody: an ordered consumer, or a plain subscription."),
    Operation("service", "send", "dead", "Every service, for what it cannot process."),
    Operation("client", "send", "jobStates", "Whoever submits, cancels or retries a job."),
    Operation("client", "send", "jobSteps", "Whoever submits a job: the first ones."),
    Operation("client", "send", "jobTriggers", "Anybody who wants a job, without waiting for it to be checked."),
    Operation("client", "send", "jobSchedules", "As `framemesh schedules add` does."),
    Operation("client", "send", "triggers", "Anybody who wants the plan started that is subscribed to it."),
    Operation("client", "send", "jobSubscriptions", "As `framemesh triggers add` does."),
    Operation("client", "send", "jobFunctions", "As `framemesh functions pause`, `resume` and `limit` do."),
    Operation("client", "send", "jobSlots", "As many as a function may do at a time, when that is set."),
    Operation("client", "receive", "jobStates", "As `framemesh jobs show` does, without a consumer."),
    Operation("client", "receive", "jobLogs", "As `framemesh jobs logs` does, without a consumer."),
    Operation("subscriber", "receive", "jobUpdates", "Anybody: a plain subscription."),
    Operation(
        "service",
        "receive",
        "jobSteps",
        f"Workers of steps pull with the durable consumer `{_STEPS.name}`, which all workers of a function share.",
    ),
    Operation("service", "receive", "jobStates", "Workers of steps look up the newest one, without a consumer."),
    Operation("service", "send", "jobStates", "Workers of steps, for what became of a step."),
    Operation("service", "send", "jobSteps", "Workers of steps, for those that a step has set free."),
    Operation("service", "send", "jobRetries", "Workers of steps, for a try that has failed."),
    Operation(
        "service",
        "receive",
        "jobSlots",
        "Workers of steps pull, for a function with a bound, with the durable consumer "
        f"`{subjects.slot_consumer('{function}').name}`.",
    ),
    Operation("service", "send", "jobSlots", "Workers of steps, for a function that has a bound from the first."),
    Operation("service", "send", "jobFunctions", "Workers of steps, when they start."),
    Operation("service", "receive", "jobFunctions", "Workers of steps look every 2 s, without a consumer."),
    Operation("service", "receive", "derivations", "Workers of steps that are remembered, without a consumer."),
    Operation("service", "send", "derivations", "Workers of steps that are remembered."),
    Operation("service", "send", "jobLogs", "Workers of steps, twice a second while a step logs."),
    Operation(
        "jobs",
        "receive",
        "triggers",
        f"Pulls with the durable consumer `{subjects.event_consumer().name}`, which all replicas share.",
    ),
    Operation("jobs", "receive", "jobSubscriptions", "Looks up that of each event, without a consumer."),
    Operation("jobs", "send", "dead", "For the event of a job that has failed."),
    Operation("media", "send", "mediaEvents", "When a medium is published, could not be, or was deleted."),
    Operation("subscriber", "receive", "mediaEvents", "Anybody: an ordered consumer, or a plain subscription."),
    Operation("jobs", "receive", "jobUpdates", "To know that there is something to read."),
    Operation("jobs", "receive", "jobStates", "Reads them on into the database, without a consumer."),
    Operation("jobs", "send", "jobStates", "For the jobs that triggers ask for."),
    Operation("jobs", "send", "jobSteps", "The first ones of these jobs, and those that nobody could send."),
    Operation("jobs", "send", "jobRetries", "Those that nobody could send."),
    Operation(
        "jobs",
        "receive",
        "jobTriggers",
        f"Pulls with the durable consumer `{subjects.trigger_consumer().name}`, which all replicas share.",
    ),
)


# -- JSON Schema ----------------------------------------------------------------------------------------


def slug(model: type[Message]) -> str:
    """File name of a message without its suffix: ``SourceState`` is ``source-state``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", model.__name__).lower()


def schema(model: type[Message]) -> Node:
    """JSON Schema (2020-12) of what a receiver takes; a field with a default may be left out."""
    body = model.model_json_schema()
    _close(body)
    definitions = body.pop("$defs", {})
    head = {"$schema": DIALECT, "$id": URN + slug(model), "title": body.pop("title")}
    tail = {"$defs": dict(sorted(definitions.items()))} if definitions else {}
    return head | {"description": body.pop("description")} | body | tail


def _close(node: Any) -> None:
    """Where names follow a pattern others are refused, which pydantic does not say."""
    if isinstance(node, dict) and isinstance(node.get("patternProperties"), dict):
        node["additionalProperties"] = False
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _close(child)


# -- AsyncAPI -------------------------------------------------------------------------------------------


def asyncapi() -> Node:
    """The AsyncAPI 3.0 document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Framemesh",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": str(_SETTINGS["nats_host"].default).partition("://")[2],
                "protocol": "nats",
                "description": "NATS with JetStream, as `framemesh up` starts it (setting `nats_host`)",
            }
        },
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {_operation_name(operation): _operation(operation) for operation in OPERATIONS},
        "components": {
            "messages": {_key(channel): _message(channel) for channel in CHANNELS},
            "schemas": {model.__name__: {"$ref": f"./{slug(model)}{SUFFIX}"} for model in ALL},
        },
    }


_ABOUT = f"""\
What Framemesh's services say to each other over NATS JetStream: JSON, one message each.

A receiver ignores fields that it does not know, so a newer sender never breaks an older reader; in the plan of a
job they are refused. A message that fails validation goes to the dead letters. Times are seconds since the epoch,
UTC. Pictures and sound never travel here: `url` is the claim check of the JPEG or WAV in SeaweedFS.

Frames, sound, tasks, results, events and dead letters carry the header `Nats-Msg-Id`, by which their stream keeps
one of two copies, and most `traceparent` (W3C Trace Context). Of the messages of jobs some do; a state of a job
follows the one before it by compare-and-set instead. That a job was cancelled is also told on the plain subject
`{subjects.job_cancelled("{job}")}`, with nothing in it. The schemas are JSON Schema 2020-12.

{Heartbeat.__name__} does not travel on NATS: it lies in Redis under `service:<kind>:<instance>` and fades there.
"""


def _channel(channel: Channel) -> Node:
    names = re.findall(r"{(\w+)}", channel.address)
    node: Node = {
        "address": channel.address,
        "description": f"{textwrap.fill(channel.text, 100)}\n\n{textwrap.fill(_kept(channel), 100)}\n",
        "messages": {_key(channel): {"$ref": f"#/components/messages/{_key(channel)}"}},
    }
    if names:
        node["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    if not channel.feed:
        node["x-jetstream"] = _stream(channel.stream.config)
    return node


def _key(channel: Channel) -> str:
    return ("Republished" if channel.feed else "") + channel.message.__name__ + channel.variant


def _kept(channel: Channel) -> str:
    config = channel.stream.config
    if channel.feed:
        source = config.republish.src if config.republish else ""
        return f"Not kept: the server republishes here what comes to `{source}` (stream `{config.name}`)."
    said = _stream(config)
    kept = "a work queue" if said["retention"] == RetentionPolicy.WORK_QUEUE else "a log"
    where = "in memory" if said["storage"] == StorageType.MEMORY else "on disk"
    gives = "a full one refuses" if said["discard"] == DiscardPolicy.NEW else "a full one drops the oldest"
    bounds = [text.format(said[name]) for name, text in _BOUNDS.items() if name in said]
    return f"Stream `{config.name}`, {kept} {where}, {gives}. Bounds: {', '.join(bounds)}."


_BOUNDS = {
    "max_age_seconds": "{:,} s",
    "max_bytes": "{:,} bytes",
    "max_messages": "{:,} messages",
    "max_messages_per_subject": "{:,} a subject",
}


def _stream(config: StreamConfig) -> Node:
    """What a stream keeps and for how long; a bound that is not said is none."""
    limits = {
        "max_age_seconds": config.max_age,
        "max_bytes": config.max_bytes,
        "max_messages": config.max_msgs,
        "max_messages_per_subject": config.max_msgs_per_subject,
        "duplicate_window_seconds": config.duplicate_window or DUPLICATE_WINDOW,
    }
    return {
        "stream": config.name,
        "subjects": list(config.subjects or []),
        "retention": config.retention or RetentionPolicy.LIMITS,
        "storage": config.storage or StorageType.FILE,
        "discard": config.discard or DiscardPolicy.OLD,
        **{name: _whole(value) for name, value in limits.items() if value and value > 0},
    }


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def _message(channel: Channel) -> Node:
    name = channel.message.__name__
    headers: Node = {MSG_ID: _header(f"`{channel.msg_id}`")} if channel.msg_id else {}
    if channel.traced:
        headers["traceparent"] = _header("Trace of the frame, from capture to result") | {"pattern": TRACE_PATTERN}
    required = [name for name in headers if name != "traceparent"] + list(channel.headers)
    headers |= {name: _header(text) for name, text in (channel.headers | channel.options).items()}
    if channel.feed:
        headers |= {
            "Nats-Stream": _header("Stream that the message lies in"),
            "Nats-Subject": _header("Subject that it was published on"),
            "Nats-Sequence": _header("Its sequence there"),
            "Nats-Time-Stamp": _header("When the stream took it, RFC 3339"),
        }
    return {
        "name": _key(channel),
        "title": name,
        "summary": (channel.message.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        **({"headers": _headers(required, headers)} if headers else {}),
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }


def _headers(required: list[str], properties: Node) -> Node:
    return {"type": "object", **({"required": required} if required else {}), "properties": properties}


def _header(text: str) -> Node:
    return {"type": "string", "description": text}


def _operation_name(operation: Operation) -> str:
    channel = operation.channel[0].upper() + operation.channel[1:]
    return f"{operation.service}{operation.action.title()}s{channel}"


def _operation(operation: Operation) -> Node:
    channel = next(channel for channel in CHANNELS if channel.name == operation.channel)
    reference = f"#/channels/{channel.name}"
    return {
        "action": operation.action,
        "channel": {"$ref": reference},
        "summary": operation.text,
        "tags": [{"name": operation.service}],
        "messages": [{"$ref": f"{reference}/messages/{_key(channel)}"}],
    }


# -- files ----------------------------------------------------------------------------------------------


@cache
def files() -> dict[str, str]:
    """Name and text of every file."""
    found = {slug(model) + SUFFIX: json.dumps(schema(model), indent=2) + "\n" for model in ALL}
    return found | {ASYNCAPI: _yaml(asyncapi())}


def write(folder: Path) -> list[str]:
    """Write the files that have drifted, remove those of messages that are gone, and name both."""
    folder.mkdir(parents=True, exist_ok=True)
    names = drifted(folder)
    for name in names:
        if name in files():
            (folder / name).write_text(files()[name], "utf-8")
        else:
            (folder / name).unlink()
    return names


def drifted(folder: Path) -> list[str]:
    """Names of the files that are missing, that differ, or that describe a message that is gone."""
    differ = [name for name, text in files().items() if _text(folder / name) != text]
    ours = f'"$id": "{URN}'
    gone = [
        path.name for path in folder.glob(f"*{SUFFIX}") if path.name not in files() and ours in (_text(path) or "")
    ]
    return sorted(differ + gone)


def _text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _yaml(document: Node) -> str:
    try:
        import yaml  # noqa: PLC0415 - the services run without it
    except ImportError as error:
        raise FramemeshError(f"{ASYNCAPI} needs PyYAML: run `pip install pyyaml`") from error

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as they are read."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    plain = json.loads(json.dumps(document))  # neither enums nor shared parts, which YAML would write as anchors
    head = "# Made from framemesh's messages, steps and subjects.py by `make generate`: do not edit.\n"
    return head + str(yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files; 1 when they have drifted."""
    parser = argparse.ArgumentParser(prog="python -m framemesh.schemas", description="JSON Schema and AsyncAPI.")
    parser.add_argument("folder", type=Path, help="where the files lie, e.g. proto")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file has drifted")
    asked = parser.parse_args(arguments)
    try:
        names = drifted(asked.folder) if asked.check else write(asked.folder)
    except (FramemeshError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if asked.check and names:
        sys.stderr.write(f"{asked.folder} has drifted from the code: {', '.join(names)}; run `make generate`\n")
        return 1
    sys.stdout.writelines(f"{asked.folder / name}\n" for name in names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
