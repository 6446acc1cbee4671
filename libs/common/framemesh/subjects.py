"""Every stream, subject and consumer of the mesh, declared once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from framemesh.messages import Medium

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MIB = 1 << 20
MOST_EVENT_BYTES = 120 << 10
"""Of one that starts a job: what is taken must fit into a dead letter as a whole, or it could not be replayed."""

WORKER_DELIVERIES = 5
MESH_DELIVERIES = 50
"""For what only the mesh itself handles: a redelivery means that a service was killed, not that a frame is bad."""

UNCOUNTED = 1 << 31
"""Deliveries of what is handed out and taken back as a matter of course."""

LOSSLESS_QUEUE = "lossless"
FOLLOWER = "follow-"
"""Begins the names of the consumers of results that other models follow."""
AUDIO_TOPIC = "audio-stream"
WAITING_WINDOWS = 24
"""Live audio windows of one source that wait for a model: a word that is dropped is missed, unlike a frame."""

RESULTS_FEED = "inference.results"
"""A plain subscriber of this subject receives every result."""


SEARCH_QUERY = "search.query"
"""Request and reply: a SearchRequest in, a SearchReply out."""
SEARCH_ASK = "search.ask"
"""The same, answered by a language model from what was found."""
SEARCHERS = "searchers"
"""Queue group of those who answer."""


def source_name(text: str) -> str:
    """Turn any text into a source name, one subject token: ``Front door #1`` becomes ``Front-door-1``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64] or "source"


def captured(node: str) -> str:
    """Subject of the frames that wait in a node's spool."""
    return f"frames.captured.{node}"


def frames(topic: str, source: str) -> str:
    """Subject of a source's claim checks; ``topic`` is the setting ``topic_stream``."""
    return f"{topic}.{source}"


def audio(source: str) -> str:
    """Subject of a source's audio windows."""
    return f"{AUDIO_TOPIC}.{source}"


def tasks(model: str, source: str, *, lossless: bool) -> str:
    """Subject of a model's tasks for one source."""
    return f"{task_stream(model, lossless=lossless)}.{source}"


def task_stream(model: str, *, lossless: bool) -> str:
    """Name of a model's queue."""
    return f"{model}-{LOSSLESS_QUEUE}" if lossless else model


def results(model: str, source: str) -> str:
    """Subject of a model's results for one source."""
    return f"inference.results.{model}.{source}"


def events(source: str) -> str:
    """Subject of a source's event life cycle."""
    return f"events.{source}"


def source_state(source: str) -> str:
    """Subject of a source's runs."""
    return f"sources.{source}"


def job_state(job: str) -> str:
    """Subject of a job's newest state."""
    return f"jobs.state.{job}"


def job_updates(job: str = "*") -> str:
    """Where each new state of a job is republished, for plain subscribers."""
    return f"jobs.updates.{job}"


def job_step(function: str, priority: str, job: str, place: str) -> str:
    """Subject of a step that is to be done; ``place`` is its name, with ``:<item>`` for one of its items."""
    return f"jobs.step.{function}.{priority}.{job}.{place}"


def job_retry(job: str, place: str) -> str:
    """Subject of the schedule of a step's next try."""
    return f"jobs.sched.retry.{job}.{place}"


def job_schedule(name: str) -> str:
    """Subject of a schedule."""
    return f"jobs.sched.cron.{name}"


def job_trigger(name: str) -> str:
    """Subject of what asks for a job, of a schedule or of anybody."""
    return f"jobs.trigger.{name}"


def job_subscription(trigger: str) -> str:
    """Subject of the plan that a trigger starts; ``trigger`` may have dots."""
    return f"jobs.subscription.{trigger}"


def trigger(name: str) -> str:
    """Subject of the events that start the plan subscribed to them; ``name`` may have dots: media.uploaded."""
    return f"triggers.{name}"


def derived(scope: str, function: str, digest: str) -> str:
    """Subject of what a function gave for an input in a scope, such as a medium."""
    return f"derived.{scope}.{function}.{digest}"


def job_slot(function: str, number: int | str) -> str:
    """Subject of one of the slots of a function whose concurrency is limited."""
    return f"jobs.slot.{function}.{number}"


def job_function(function: str) -> str:
    """Subject of what is known of a function."""
    return f"jobs.function.{function}"


def job_cancelled(job: str) -> str:
    """A plain subject on which workers hear that a job was cancelled."""
    return f"jobs.cancelled.{job}"


def job_log(job: str, place: str = "*") -> str:
    """Subject of what a step's logger said."""
    return f"joblogs.{job}.{place}"


def dead(stream: str, subject: str) -> str:
    """Subject of a dead letter."""
    return f"dead.{stream}.{subject}"


@dataclass(frozen=True)
class Stream:
    """A JetStream stream as the mesh declares it."""

    config: StreamConfig

    @property
    def name(self) -> str:
        """Its name on the server."""
        return str(self.config.name)


@dataclass(frozen=True)
class Consumer:
    """A durable pull consumer and the stream it reads."""

    stream: Stream
    config: ConsumerConfig
    max_deliveries: int = WORKER_DELIVERIES
    """Deliveries after which a message that fails goes to the dead letters."""
    max_unfinished: int = MESH_DELIVERIES
    """Deliveries after which one goes there that nobody has finished; counted by the client, since a server that
    stops delivering would leave the message in a work queue for ever. What only lay beside a message that ended
    its process is delivered again as well, so this is many."""
    exclusive: bool = False
    """Whether one process at a time reads it, having taken it over."""

    @property
    def name(self) -> str:
        """Its durable name."""
        return str(self.config.durable_name)

    @property
    def ack_wait(self) -> float:
        """Seconds until an unacknowledged message is delivered again."""
        return float(self.config.ack_wait or 30)


def _consumer(
    stream: Stream,
    name: str,
    *,
    ack_wait: float,
    filter_subject: str | None = None,
    max_deliveries: int = MESH_DELIVERIES,
    **more: object,
) -> Consumer:
    config = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_ack_pending=4096,
        filter_subject=filter_subject,
    )
    return Consumer(stream, config.evolve(**more), max_deliveries)


CAPTURED = Stream(
    StreamConfig(
        name="CAPTURED",
        description="Frames in a node's spool, reader to uploader",
        subjects=["frames.captured.*"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.MEMORY,
        max_bytes=32 * MIB,
        max_age=10 * MINUTE,
        discard=DiscardPolicy.OLD,  # the spool is the truth: what is dropped here is found there
    )
)


def frames_stream(topic: str, ttl: float) -> Stream:
    """Claim checks of stored frames, kept as long as the frames themselves (``ttl`` seconds)."""
    return Stream(
        StreamConfig(
            name="FRAMES" if topic == "frames-stream" else source_name(topic).upper(),
            description="One claim check a frame; replay and evidence read it",
            subjects=[f"{topic}.*"],
            storage=StorageType.FILE,
            max_age=ttl,
            max_bytes=256 * MIB,
            allow_direct=True,
        )
    )


def audio_stream(ttl: float) -> Stream:
    """Claim checks of audio windows, kept as long as the windows themselves (``ttl`` seconds)."""
    return Stream(
        StreamConfig(
            name="AUDIO",
            description="One claim check an audio window",
            subjects=[audio("*")],
            storage=StorageType.FILE,
            max_age=ttl,
            max_bytes=64 * MIB,
            allow_direct=True,
        )
    )


def task_streams(model: str, medium: Medium = Medium.FRAME) -> tuple[Stream, Stream]:
    """A model's live queue (newest of each source) and its lossless queue (bounded, pushes back)."""
    most, kept = (1, "the newest frame") if medium is Medium.FRAME else (WAITING_WINDOWS, "the newest windows")
    live = StreamConfig(
        name=task_stream(model, lossless=False),
        description=f"Live tasks of {model}: {kept} of every source",
        subjects=[tasks(model, "*", lossless=False)],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.MEMORY,
        max_msgs_per_subject=most,
        discard=DiscardPolicy.OLD,
        max_bytes=32 * MIB,
        metadata={"framemesh.role": "tasks"},
    )
    lossless = StreamConfig(
        name=task_stream(model, lossless=True),
        description=f"Lossless tasks of {model}: a full queue pushes back to the reader",
        subjects=[tasks(model, "*", lossless=True)],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        max_msgs=512,
        duplicate_window=30 * MINUTE,  # a frame may wait that long for another model's full queue
        discard=DiscardPolicy.NEW,
        max_bytes=32 * MIB,
        metadata={"framemesh.role": "tasks"},
    )
    return Stream(live), Stream(lossless)


RESULTS = Stream(
    StreamConfig(
        name="RESULTS",
        description="What the models found",
        subjects=["inference.results.*.*"],
        storage=StorageType.FILE,
        max_age=DAY,
        max_bytes=512 * MIB,
        duplicate_window=30 * MINUTE,
        # A fixed destination needs the source written token by token.
        republish=RePublish(src="inference.results.*.*", dest=RESULTS_FEED),
        allow_direct=True,
    )
)

EVENTS = Stream(
    StreamConfig(
        name="EVENTS",
        description="Event life cycle",
        subjects=["events.*"],
        storage=StorageType.FILE,
        max_age=90 * DAY,
        max_bytes=512 * MIB,
        duplicate_window=10 * MINUTE,
        allow_direct=True,
    )
)

SOURCES = Stream(
    StreamConfig(
        name="SOURCES",
        description="Runs of the sources: started, ended, failed, settled",
        subjects=["sources.*"],
        storage=StorageType.FILE,
        max_msgs_per_subject=64,
        max_age=90 * DAY,
        allow_direct=True,
    )
)

DEADLETTERS = Stream(
    StreamConfig(
        name="DEADLETTERS",
        description="What could not be processed, with the reason",
        subjects=["dead.>"],
        storage=StorageType.FILE,
        max_age=14 * DAY,
        max_bytes=256 * MIB,
        duplicate_window=10 * MINUTE,
        allow_direct=True,
    )
)

JOBS = Stream(
    StreamConfig(
        name="JOBS",
        description="Durable jobs: states, steps to be done, schedules, slots and functions",
        subjects=[
            job_state("*"),
            job_step("*", "*", "*", "*"),
            "jobs.sched.>",
            job_trigger("*"),
            job_subscription(">"),
            job_slot("*", "*"),
            job_function("*"),
        ],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        # No bound on its size: a full stream would drop the oldest job, and refusing cannot be had with schedules.
        max_msgs_per_subject=1,
        discard=DiscardPolicy.OLD,
        duplicate_window=2 * MINUTE,  # each new job is an entry
        republish=RePublish(src=job_state("*"), dest=job_updates("{{wildcard(1)}}")),
        allow_direct=True,
        allow_msg_schedules=True,
        allow_msg_ttl=True,
    )
)

JOBLOGS = Stream(
    StreamConfig(
        name="JOBLOGS",
        description="What the steps' loggers said",
        subjects=[job_log("*")],
        storage=StorageType.FILE,
        max_age=30 * DAY,
        max_bytes=512 * MIB,
        allow_direct=True,
    )
)

TRIGGERS = Stream(
    StreamConfig(
        name="TRIGGERS",
        description="Events that start jobs, until they are jobs",
        subjects=[trigger(">")],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        max_bytes=1024 * MIB,
        max_msg_size=MOST_EVENT_BYTES,
        discard=DiscardPolicy.NEW,  # a full stream refuses, and its publisher knows
        duplicate_window=10 * MINUTE,
        allow_direct=True,
    )
)

DERIVATIONS = Stream(
    StreamConfig(
        name="DERIVATIONS",
        description="What functions gave for an input, so that the same is not done twice",
        subjects=[derived("*", "*", "*")],
        storage=StorageType.FILE,
        max_msgs_per_subject=1,
        max_bytes=1024 * MIB,
        discard=DiscardPolicy.OLD,  # what is forgotten is done again
        allow_direct=True,
    )
)

EVERYWHERE = (CAPTURED, RESULTS, EVENTS, SOURCES, DEADLETTERS)


def uploader_consumer(node: str) -> Consumer:
    """The frames of one node's spool."""
    return _consumer(CAPTURED, f"uploader-{node}", ack_wait=10, filter_subject=captured(node))


def router_consumer(stream: Stream) -> Consumer:
    """Every stored frame, or every audio window, shared by all routers."""
    return _consumer(stream, "router", ack_wait=10)


def follower_consumer(model: str) -> Consumer:
    """Results of a model that others follow, from when it was first followed, shared by all routers."""
    return _consumer(
        RESULTS,
        f"{FOLLOWER}{model}",
        ack_wait=10,
        filter_subject=results(model, "*"),
        deliver_policy=DeliverPolicy.NEW,
    )


def worker_consumers(
    model: str, medium: Medium = Medium.FRAME, source: str | None = None
) -> tuple[Consumer, Consumer]:
    """A model's live and lossless tasks, shared by all of its workers; or those of one source."""
    live, lossless = task_streams(model, medium)
    return _worker_consumer(live, source), _worker_consumer(lossless, source)


def _worker_consumer(stream: Stream, source: str | None) -> Consumer:
    if source is None:
        return _consumer(stream, "workers", ack_wait=10, max_deliveries=WORKER_DELIVERIES)
    return _consumer(
        stream,
        f"workers-{source}",
        ack_wait=10,
        max_deliveries=WORKER_DELIVERIES,
        filter_subject=f"{stream.name}.{source}",
        inactive_threshold=HOUR,
    )


def registrator_consumer(source: str) -> Consumer:
    """All results of one source. Its ack floor is the registrator's checkpoint, so acks are cumulative."""
    consumer = _consumer(
        RESULTS,
        f"registrator-{source}",
        ack_wait=HOUR,
        filter_subject=results("*", source),
        ack_policy=AckPolicy.ALL,
        max_ack_pending=200_000,
    )
    return replace(consumer, exclusive=True)


def step_consumer(function: str, priority: str) -> Consumer:
    """The steps of one function and one priority, shared by all of its workers."""
    consumer = _consumer(
        JOBS, f"steps-{function}-{priority}", ack_wait=15, filter_subject=job_step(function, priority, "*", "*")
    )
    return replace(consumer, max_unfinished=UNCOUNTED)  # a step that is handed back is not one that failed


def trigger_consumer() -> Consumer:
    """What asks for jobs, shared by all that make them."""
    return _consumer(JOBS, "triggers", ack_wait=15, filter_subject=job_trigger("*"))


def event_consumer() -> Consumer:
    """Events that shall be jobs, shared by all that make them."""
    return _consumer(TRIGGERS, "jobs", ack_wait=30, filter_subject=trigger(">"))


def slot_consumer(function: str) -> Consumer:
    """The slots of one function: who holds one may do a step."""
    consumer = _consumer(JOBS, f"slots-{function}", ack_wait=15, filter_subject=job_slot(function, "*"))
    return replace(consumer, max_unfinished=UNCOUNTED)


def search_consumer(stream: Stream, shelf: str) -> Consumer:
    """What a shelf of the search service has still to take up, from the oldest that is kept."""
    consumer = _consumer(stream, f"search-{shelf}", ack_wait=30)
    return replace(consumer, max_unfinished=UNCOUNTED)  # it waits for a server that makes vectors, however long
