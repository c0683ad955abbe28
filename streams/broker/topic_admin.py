"""Topics from the catalogue and the settings: create what is missing, change nothing that exists.

Nothing here alters a topic. A topic that differs may hold a year of somebody's records, and which
of the two is right is for people to say: `topic_drift` puts it in words with the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from millstream.schemas.errors import Misconfigured, NoSuchTopic, ServiceUnavailable, TopicDrift
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.clients import admin_client, not_reached
from millstream.streams.broker.topics.drift import (
    LOOKED_AT,
    Drift,
    Found,
    hidden,
    missing,
    told_of,
    unknown_configs,
)
from millstream.streams.broker.topics.refused import Refusal, all_refused, told_of_refusal
from millstream.streams.settings import Settings
from millstream.streams.topic_settings.retention import configs_of
from millstream.streams.topic_settings.values import replication_of

__all__ = [
    "Drift",
    "TopicReport",
    "ensure_changelogs",
    "ensure_topics",
    "partition_counts",
    "refused_topics",
    "require_sound_topics",
    "topic_drift",
]

_REPLICATION_WANTED = 3
_IN_SYNC_MIN = 2
_READY_TIMEOUT_S = 30.0
_READY_POLL_S = 0.05
_NO_LEADER = -1
_DENIED = TopicAuthorizationFailedError.errno
# The newest segment is never compacted, and is read whole when a table is restored.
_CHANGELOG_CONFIGS = {"cleanup.policy": "compact", "segment.bytes": str(16 * 1024 * 1024)}
_IN_SYNC = "min.insync.replicas"


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `ensure_topics` did: physical names of the topics, in the catalogue's order."""

    created: tuple[str, ...]
    existing: tuple[str, ...]


async def ensure_topics(settings: Settings, specs: Sequence[TopicSpec]) -> TopicReport:
    """Create the topics that do not exist; return once each has a leader for every partition.

    Several workers may do this at once: who comes second finds the topic existing.
    Raises `ServiceUnavailable` if Kafka does not answer, `Misconfigured` if it refuses a topic.
    """
    return await _ensure(settings, {settings.topic(spec.name): spec for spec in specs})


async def ensure_changelogs(settings: Settings, names: Collection[str]) -> TopicReport:
    """Create the changelogs of tables that do not exist, by their physical names.

    They are compacted, with as many partitions and replicas as the catalogue's topics. Raises as
    `ensure_topics` does.
    """
    return await _ensure(settings, dict.fromkeys(names))


async def _ensure(settings: Settings, wanted: Mapping[str, TopicSpec | None]) -> TopicReport:
    async with _admin(settings) as admin:
        found = await _topics(admin, wanted)
        lacking = {name: spec for name, spec in wanted.items() if name not in found}
        created = await _create(admin, settings, lacking)
        if lacking:
            await _wait_for_leaders(admin, settings, wanted)
    return TopicReport(
        created=tuple(created), existing=tuple(name for name in wanted if name not in created)
    )


async def refused_topics(settings: Settings, specs: Sequence[TopicSpec]) -> str | None:
    """Say why topics that are missing could not be made, before any is: `None` if they could be.

    That this user may create none is no reason here. Raises `ServiceUnavailable`.
    """
    async with _admin(settings) as admin:
        names = {settings.topic(spec.name): spec for spec in specs}
        found = await _topics(admin, names)
        lacking = {name: spec for name, spec in names.items() if name not in found}
        if not lacking:
            return None
        topics = await _new_topics(admin, settings, lacking)
        answers = await _asked(admin, tuple(topics.values()), validate_only=True)
        refusals = [one for one in answers if one.is_of_values]
        return await _told(admin, refusals, topics) if refusals else None


async def topic_drift(settings: Settings, specs: Sequence[TopicSpec]) -> tuple[Drift, ...]:
    """Compare the topics on the broker with what they are to be; empty when they agree.

    Looks at existence, number of partitions and replicas, every configuration that the catalogue or
    `MILLSTREAM_TOPICS` sets, and whether records can be written and are stamped and kept as lanes
    count on, whoever set that. Raises `ServiceUnavailable` if Kafka does not answer.
    """
    names = {settings.topic(spec.name): spec for spec in specs}
    async with _admin(settings) as admin:
        denied: set[str] = set()
        partitions = await _topics(admin, names, denied)
        present = [name for name in names if name in partitions]
        configs = await _configs(admin, settings, {name: names[name] for name in present})
    drifts: list[Drift] = []
    for name, spec in names.items():
        if name not in partitions:
            drifts.append(hidden(name) if name in denied else missing(name))
            continue
        replicas = min((len(one["replicas"]) for one in partitions[name]), default=0)
        counts = (len(partitions[name]), replicas)
        known, read_only = configs.get(name, ({}, frozenset()))
        found = Found(name, *counts, known, read_only)
        if name in configs:
            drifts.extend(told_of(settings, spec, found))
        else:
            drifts.extend(one for one in told_of(settings, spec, found) if one.fatal)
            drifts.append(unknown_configs(name))
    return tuple(drifts)


async def require_sound_topics(settings: Settings, specs: Sequence[TopicSpec]) -> tuple[Drift, ...]:
    """Give the harmless drift; raise `TopicDrift`, which lists it all, if any of it is fatal."""
    drifts = await topic_drift(settings, specs)
    fatal = [str(drift) for drift in drifts if drift.fatal]
    if fatal:
        raise TopicDrift("\n".join(fatal))
    return drifts


async def partition_counts(settings: Settings, topics: Collection[str]) -> dict[str, int]:
    """Give the number of partitions of topics, by their physical names.

    Raises `NoSuchTopic`, `Misconfigured` for one that is hidden, `ServiceUnavailable`.
    """
    async with _admin(settings) as admin:
        denied: set[str] = set()
        found = await _topics(admin, topics, denied)
    if denied:
        raise Misconfigured(
            f"this user may not see {', '.join(sorted(denied))} at {settings.kafka}, or there is "
            "no such topic: give it the right `Describe`; `millstream doctor` has the commands"
        )
    lacking = [topic for topic in topics if topic not in found]
    if lacking:
        raise NoSuchTopic(
            f"no such topic at {settings.kafka}: {', '.join(sorted(lacking))}; start a worker or "
            "run `millstream topics --create`, which create what is missing"
        )
    return {topic: len(partitions) for topic, partitions in found.items()}


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = admin_client(settings)
    try:
        await admin.start()
        yield admin
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await admin.close()


async def _topics(
    admin: AIOKafkaAdminClient, names: Iterable[str], denied: set[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Give the partitions of those topics that exist; put into `denied` what may not be seen.

    A broker tells nobody whether a topic exists that this user may not describe.
    """
    described = await admin.describe_topics(list(names))
    if denied is not None:
        denied.update(one["topic"] for one in described if one["error_code"] == _DENIED)
    return {topic["topic"]: topic["partitions"] for topic in described if not topic["error_code"]}


async def _create(
    admin: AIOKafkaAdminClient, settings: Settings, lacking: Mapping[str, TopicSpec | None]
) -> list[str]:
    if not lacking:
        return []
    topics = await _new_topics(admin, settings, lacking)
    created, refusals = [], []
    for refusal in await _asked(admin, tuple(topics.values())):
        if not refusal.error:
            created.append(refusal.topic)
            continue
        error = for_code(refusal.error)
        if error is TopicAlreadyExistsError:
            continue
        if error.retriable:
            message = f"Kafka at {settings.kafka} cannot create topics: {refusal.reason}"
            raise ServiceUnavailable(message)
        refusals.append(refusal)
    if refusals:
        raise Misconfigured(await _told(admin, refusals, topics))
    return created


async def _new_topics(
    admin: AIOKafkaAdminClient, settings: Settings, lacking: Mapping[str, TopicSpec | None]
) -> dict[str, NewTopic]:
    replication = settings.replication
    if replication is None:
        # Known since it connected; `describe_cluster` asks for every topic that there is.
        brokers = admin._client.cluster.brokers()  # noqa: SLF001  it has no public way
        replication = min(_REPLICATION_WANTED, len(brokers))
    return {name: _new_topic(settings, name, spec, replication) for name, spec in lacking.items()}


def _new_topic(settings: Settings, name: str, spec: TopicSpec | None, all_topics: int) -> NewTopic:
    given = _CHANGELOG_CONFIGS if spec is None else spec.configs()
    replication = replication_of(settings.topics, spec, all_topics)
    # With three replicas, two must have a record before it is acknowledged: one may then be lost.
    # With fewer, one: brokers whose own default is two would take no record.
    in_sync = _IN_SYNC_MIN if replication >= _REPLICATION_WANTED else 1
    given = {**given, _IN_SYNC: str(in_sync)}
    configs = configs_of(settings.topics, given, spec)
    return NewTopic(name, settings.partitions, replication, topic_configs=configs)


async def _asked(
    admin: AIOKafkaAdminClient, topics: Sequence[NewTopic], *, validate_only: bool = False
) -> list[Refusal]:
    """Ask for topics; gives what the broker says of each, error 0 where it makes it."""
    response = await admin.create_topics(list(topics), validate_only=validate_only)
    return [
        Refusal(
            outcome["topic"],
            outcome["error_code"],
            str(outcome.get("error_message") or for_code(outcome["error_code"]).description),
        )
        for outcome in response.to_object()["topic_errors"]
    ]


async def _told(
    admin: AIOKafkaAdminClient, refusals: Sequence[Refusal], topics: Mapping[str, NewTopic]
) -> str:
    """Say what is refused: of the topic that has most values, of whatever is refused there."""
    first = max(refusals, key=lambda one: len(topics[one.topic].topic_configs))
    topic = topics[first.topic]
    configs = topic.topic_configs

    async def ask(left: Mapping[str, str]) -> Refusal | None:
        again = NewTopic(
            topic.name, topic.num_partitions, topic.replication_factor, topic_configs=dict(left)
        )
        (answer,) = await _asked(admin, [again], validate_only=True)
        return answer if answer.error else None

    return told_of_refusal(
        first,
        await all_refused(first, configs, ask),
        configs,
        partitions=topic.num_partitions,
        replication=topic.replication_factor,
        others=len(refusals) - 1,
    )


async def _wait_for_leaders(
    admin: AIOKafkaAdminClient, settings: Settings, names: Iterable[str]
) -> None:
    wanted = set(names)
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while True:
                found = await _topics(admin, wanted)
                led = {
                    name
                    for name, partitions in found.items()
                    if partitions and all(part["leader"] != _NO_LEADER for part in partitions)
                }
                if led == wanted:
                    return
                await asyncio.sleep(_READY_POLL_S)
    except TimeoutError:
        raise ServiceUnavailable(
            f"Kafka at {settings.kafka} has no leader for {', '.join(sorted(wanted - led))} "
            f"after {_READY_TIMEOUT_S:.0f} s; are enough brokers up?"
        ) from None


async def _configs(
    admin: AIOKafkaAdminClient, settings: Settings, specs: dict[str, TopicSpec]
) -> dict[str, tuple[dict[str, str], frozenset[str]]]:
    """Give the configuration that is in force, for the keys that are looked at, and what is fixed.

    A topic whose configuration this user may not see is left out.
    """
    if not specs:
        return {}
    responses = await admin.describe_configs(
        [
            ConfigResource(
                ConfigResourceType.TOPIC,
                name,
                dict.fromkeys((*configs_of(settings.topics, spec.configs(), spec), *LOOKED_AT)),
            )
            for name, spec in specs.items()
        ]
    )
    return {
        resource["resource_name"]: (
            # aiokafka calls the field config_names; it holds one name.
            {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]},
            frozenset(
                entry["config_names"] for entry in resource["config_entries"] if entry["read_only"]
            ),
        )
        for response in responses
        for resource in response.to_object()["resources"]
        if resource["error_code"] != _DENIED
    }
