"""Topics from the catalogue: create what is missing, tell what differs, change nothing that exists.

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
from millstream.streams.settings import Settings

__all__ = [
    "Drift",
    "TopicReport",
    "ensure_changelogs",
    "ensure_topics",
    "partition_counts",
    "require_sound_topics",
    "topic_drift",
]

_REPLICATION_WANTED = 3
_IN_SYNC_MIN = 2
_READY_TIMEOUT_S = 30.0
_READY_POLL_S = 0.05
_NO_LEADER = -1
_BATCH_BYTES = "max.message.bytes"
_DENIED = TopicAuthorizationFailedError.errno
# The newest segment is never compacted, and is read whole when a table is restored.
_CHANGELOG_CONFIGS = {"cleanup.policy": "compact", "segment.bytes": str(16 * 1024 * 1024)}


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `ensure_topics` did: physical names of the topics, in the catalogue's order."""

    created: tuple[str, ...]
    existing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which a topic differs from the catalogue.

    `fatal` says that workers must not run on it: users' records would stand at the wrong partition.
    `is_hidden` says that this user may not see how it is.
    """

    topic: str
    setting: str
    wanted: str
    found: str
    remedy: str
    fatal: bool = False
    is_hidden: bool = False

    def __str__(self) -> str:
        """Give it in words, with what to do."""
        return (
            f"{self.topic}: {self.setting} is {self.found}, the catalogue says {self.wanted}; "
            f"{self.remedy}"
        )


async def ensure_topics(settings: Settings, specs: Sequence[TopicSpec]) -> TopicReport:
    """Create the topics that do not exist; return once each has a leader for every partition.

    Several workers may do this at once: who comes second finds the topic existing.
    Raises `ServiceUnavailable` if Kafka does not answer, `Misconfigured` if it refuses a topic.
    """
    return await _ensure(settings, {settings.topic(spec.name): spec.configs() for spec in specs})


async def ensure_changelogs(settings: Settings, names: Collection[str]) -> TopicReport:
    """Create the changelogs of tables that do not exist, by their physical names.

    They are compacted, with as many partitions and replicas as the catalogue's topics. Raises as
    `ensure_topics` does.
    """
    return await _ensure(settings, dict.fromkeys(names, _CHANGELOG_CONFIGS))


async def _ensure(settings: Settings, wanted: Mapping[str, Mapping[str, str]]) -> TopicReport:
    async with _admin(settings) as admin:
        found = await _topics(admin, wanted)
        missing = {name: configs for name, configs in wanted.items() if name not in found}
        created = await _create(admin, settings, missing)
        if missing:
            await _wait_for_leaders(admin, settings, wanted)
    return TopicReport(
        created=tuple(created), existing=tuple(name for name in wanted if name not in created)
    )


async def topic_drift(settings: Settings, specs: Sequence[TopicSpec]) -> tuple[Drift, ...]:
    """Compare the topics on the broker with the catalogue; empty when they agree.

    Looks at existence, number of partitions, every configuration that the catalogue sets, and the
    largest batch that each topic takes, whoever set that.
    Raises `ServiceUnavailable` if Kafka does not answer.
    """
    names = {settings.topic(spec.name): spec for spec in specs}
    async with _admin(settings) as admin:
        hidden: set[str] = set()
        partitions = await _topics(admin, names, hidden)
        present = [name for name in names if name in partitions]
        configs = await _configs(admin, {name: names[name] for name in present})
    drifts: list[Drift] = []
    for name, spec in names.items():
        if name not in partitions:
            drifts.append(_hidden(name) if name in hidden else _missing(name))
            continue
        if len(partitions[name]) != settings.partitions:
            drifts.append(_repartitioned(name, settings.partitions, len(partitions[name])))
        if name in configs:
            drifts.extend(_config_drift(name, spec, configs[name]))
        else:
            drifts.append(_unknown_configs(name))
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
        hidden: set[str] = set()
        found = await _topics(admin, topics, hidden)
    if hidden:
        raise Misconfigured(
            f"this user may not see {', '.join(sorted(hidden))} at {settings.kafka}, or there is "
            "no such topic: give it the right `Describe`; `millstream doctor` has the commands"
        )
    missing = [topic for topic in topics if topic not in found]
    if missing:
        raise NoSuchTopic(
            f"no such topic at {settings.kafka}: {', '.join(sorted(missing))}; start a worker or "
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
    admin: AIOKafkaAdminClient, names: Iterable[str], hidden: set[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Give the partitions of those topics that exist; put into `hidden` what may not be seen.

    A broker tells nobody whether a topic exists that this user may not describe.
    """
    described = await admin.describe_topics(list(names))
    if hidden is not None:
        hidden.update(one["topic"] for one in described if one["error_code"] == _DENIED)
    return {topic["topic"]: topic["partitions"] for topic in described if not topic["error_code"]}


async def _create(
    admin: AIOKafkaAdminClient, settings: Settings, missing: Mapping[str, Mapping[str, str]]
) -> list[str]:
    if not missing:
        return []
    replication = settings.replication
    if replication is None:
        # Known since it connected; `describe_cluster` asks for every topic that there is.
        brokers = admin._client.cluster.brokers()  # noqa: SLF001  it has no public way
        replication = min(_REPLICATION_WANTED, len(brokers))
    # With three replicas, two must have a record before it is acknowledged: one may then be lost.
    durability = (
        {"min.insync.replicas": str(_IN_SYNC_MIN)} if replication >= _REPLICATION_WANTED else {}
    )
    response = await admin.create_topics(
        [
            NewTopic(
                name,
                settings.partitions,
                replication,
                topic_configs={**configs, **durability},
            )
            for name, configs in missing.items()
        ]
    )
    created = []
    for outcome in response.to_object()["topic_errors"]:
        if not outcome["error_code"]:
            created.append(outcome["topic"])
            continue
        error = for_code(outcome["error_code"])
        if error is TopicAlreadyExistsError:
            continue
        reason = outcome["error_message"] or error.description
        if error.retriable:
            raise ServiceUnavailable(f"Kafka at {settings.kafka} cannot create topics: {reason}")
        raise Misconfigured(
            f"Kafka refuses topic {outcome['topic']} ({settings.partitions} partitions, "
            f"replication {replication}): {reason}; mend MILLSTREAM_NAMESPACE, "
            "MILLSTREAM_PARTITIONS or MILLSTREAM_REPLICATION, or the broker's rights"
        )
    return created


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
    admin: AIOKafkaAdminClient, specs: dict[str, TopicSpec]
) -> dict[str, dict[str, str]]:
    """Give the configuration that is in force, for the keys that are looked at.

    A topic whose configuration this user may not see is left out.
    """
    if not specs:
        return {}
    responses = await admin.describe_configs(
        [
            ConfigResource(
                ConfigResourceType.TOPIC, name, dict.fromkeys((*spec.configs(), _BATCH_BYTES))
            )
            for name, spec in specs.items()
        ]
    )
    return {
        resource["resource_name"]: {
            # aiokafka calls the field config_names; it holds one name.
            entry["config_names"]: entry["config_value"]
            for entry in resource["config_entries"]
        }
        for response in responses
        for resource in response.to_object()["resources"]
        if resource["error_code"] != _DENIED
    }


def _hidden(name: str) -> Drift:
    return Drift(
        name,
        "the topic",
        "that it exists",
        "hidden from this user",
        "give this user the right `Describe` on it; `millstream doctor` has the command",
        fatal=True,
        is_hidden=True,
    )


def _unknown_configs(name: str) -> Drift:
    return Drift(
        name,
        "the configuration",
        "what `docs/reference` has",
        "hidden from this user",
        "give this user the right `DescribeConfigs` on it; `millstream doctor` has the command",
        is_hidden=True,
    )


def _missing(name: str) -> Drift:
    return Drift(
        name,
        "the topic",
        "that it exists",
        "missing",
        "start a worker or run `millstream topics --create`, which create what is missing",
        fatal=True,
    )


def _repartitioned(name: str, wanted: int, found: int) -> Drift:
    return Drift(
        name,
        "the number of partitions",
        str(wanted),
        str(found),
        f"set MILLSTREAM_PARTITIONS={found} if all topics of the namespace have {found}; else move "
        "to a new MILLSTREAM_NAMESPACE: users' records would no longer meet at one partition",
        fatal=True,
    )


def _config_drift(name: str, spec: TopicSpec, found: dict[str, str]) -> list[Drift]:
    drifts = [
        Drift(
            name,
            key,
            wanted,
            found.get(key, "unknown"),
            f"to follow the catalogue: {_altering(name, key, wanted)}",
        )
        for key, wanted in spec.configs().items()
        if key != _BATCH_BYTES and found.get(key) != wanted
    ]
    # A topic without a limit of its own has the broker's, which may be lower. A higher one is none
    # of ours: what is too large for lanes is buried.
    limit, least = found.get(_BATCH_BYTES), spec.batch_bytes_min
    if limit is None or not limit.isdecimal() or int(limit) < least:
        drifts.append(
            Drift(
                name,
                _BATCH_BYTES,
                f"{least} at least",
                limit or "unknown",
                "records that are larger are refused, and their runs fail or end as dead letters: "
                f"{_altering(name, _BATCH_BYTES, str(least))}",
            )
        )
    return drifts


def _altering(name: str, key: str, wanted: str) -> str:
    return (
        f"kafka-configs.sh --alter --entity-type topics --entity-name {name} "
        f"--add-config '{key}={_bracketed(wanted)}'"
    )


def _bracketed(value: str) -> str:
    """Put brackets around a list: without them the tool ends the value at its first comma."""
    return f"[{value}]" if "," in value else value
