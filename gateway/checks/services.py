"""Kafka and Redis, and what workers are to read next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import (
    UP_STARTS,
    is_up_starting,
    local_settings,
    settings_for_client,
)
from millstream.schemas.errors import MillstreamError, Misconfigured
from millstream.schemas.topics import catalogue
from millstream.streams.broker.diagnosis.features import require_transactions
from millstream.streams.broker.diagnosis.reach import Reach, reach
from millstream.streams.broker.security.live import live_security
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.broker.topic_admin import Drift, refused_topics, topic_drift
from millstream.streams.consumer.group_offsets import committed_gaps
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.sessions.in_redis.securing import open_secrets
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings

__all__ = ["check_kafka", "check_offsets", "check_redis", "offsets_found", "topics_found"]


async def check_kafka() -> tuple[Finding, ...]:
    """Whether Kafka answers, and its topics are as the catalogue says."""
    local_settings()  # what is wrong with them is no fault of Kafka's
    try:
        settings = settings_for_client()
    except Misconfigured as error:
        starts = is_up_starting(local_settings())
        remedy = "ask again in a moment" if starts else "start `millstream up`"
        return (Finding("kafka", "wrong", str(error), remedy),)
    try:
        specs = catalogue(settings.chain_cuts)
        drifts = await topic_drift(settings, specs)
        found = await reach(settings)
        await require_transactions(settings)
        refused = await refused_topics(settings, specs)
    except MillstreamError as error:
        return (Finding("kafka", "wrong", str(error), _remedy(error)),)
    answers = Finding("kafka", "ok", f"answers at {settings.kafka}")
    if any(drift.fatal for drift in drifts) and is_up_starting(settings):
        return answers, Finding("topics", "wrong", UP_STARTS, "ask again in a moment")
    told = topics_found(drifts)
    if refused is not None:
        remedy = "as it says; docs/how-to/topics.md says more"
        told = (Finding("topics", "wrong", refused, remedy), *told)
    return answers, *_reach_found(settings, found), *told


def _remedy(error: MillstreamError) -> str:
    if isinstance(error, Misconfigured):
        return "mend the setting; docs/how-to/secure.md has examples"
    if isinstance(error.__cause__, AccessRefused):
        return "as it says; docs/how-to/secure.md has examples"
    return "check that it runs, and MILLSTREAM_KAFKA if that is set"


def _reach_found(settings: Settings, found: Reach) -> Iterator[Finding]:
    """Give what is to be said of brokers that are not reached, and of how they are secured."""
    for line in found.names:
        remedy = "take it out of MILLSTREAM_KAFKA, or have it answer"
        yield Finding("kafka", "note", f"one of its addresses is not reached: {line}", remedy)
    for line in found.brokers:
        yield Finding("kafka", "wrong", line, "mend the broker's advertised.listeners, or the name")
    for line in live_security(settings).warnings():
        yield Finding("security", "note", line, "as it says; docs/how-to/secure.md says more")


def topics_found(drifts: tuple[Drift, ...]) -> tuple[Finding, ...]:
    """Give what is to be said of topics.

    What this user may not see is a note: the check of rights says for whom that is wrong.
    """
    if not drifts:
        return (Finding("topics", "ok", "as the catalogue says"),)
    hidden = ", ".join(dict.fromkeys(drift.topic for drift in drifts if drift.is_hidden))
    told = f"this user may not see all of {hidden}, or there is none"
    return (
        *((Finding("topics", "note", told, "see `rights` below"),) if hidden else ()),
        *_drifts_found(drift for drift in drifts if not drift.is_hidden),
    )


def _drifts_found(drifts: Iterable[Drift]) -> Iterator[Finding]:
    return (
        Finding(
            "topics",
            "wrong" if drift.fatal else "note",
            f"{drift.topic}: {drift.setting} is {drift.found}, wanted: {drift.wanted}",
            drift.remedy,
        )
        for drift in drifts
    )


async def check_redis() -> tuple[Finding, ...]:
    """Whether Redis answers, can be written, and has the view's keys as they are."""
    try:
        settings: Settings = settings_for_client()
    except Misconfigured:
        try:
            settings = local_settings()
        except Misconfigured:
            return ()  # told by the check of the settings
        if "redis_url" not in settings.model_fields_set:
            return ()  # nothing runs here, which the check of Kafka tells
    try:
        store = RedisSessionStore(settings)
    except Misconfigured as error:
        return (Finding("redis", "wrong", str(error), "mend MILLSTREAM_REDIS_URL, or unset it"),)
    try:
        await store.ping()
        await store.check_writes()
        foreign = await store.foreign_keys()
    except MillstreamError as error:
        remedy = "check that it runs, and MILLSTREAM_REDIS_URL if that is set"
        return (Finding("redis", "wrong", str(error), remedy),)
    finally:
        await store.close()
    opened = tuple(
        Finding(
            "security",
            "note",
            f"{path} holds a secret, and every user of this machine may read it",
            f"chmod 600 {path}",
        )
        for path in open_secrets(settings)
    )
    if foreign:
        told = f"{len(foreign)} keys are of another type than the session view's, as {foreign[0]!r}"
        return (Finding("redis", "wrong", told, "delete them: the log has the sessions"),)
    return (Finding("redis", "ok", "answers, and can be written"), *opened)


async def check_offsets() -> tuple[Finding, ...]:
    """Whether the topics still have what workers are to read next."""
    try:
        return offsets_found(await committed_gaps(settings_for_client()))
    except MillstreamError:
        return ()  # told by the check of Kafka


def offsets_found(gaps: tuple[OffsetGap, ...]) -> tuple[Finding, ...]:
    """Give what is to be said of committed offsets that their logs do not have."""
    if not gaps:
        return (Finding("offsets", "ok", "the topics have all that workers are to read next"),)
    return tuple(_offset_found(gap) for gap in gaps)


def _offset_found(gap: OffsetGap) -> Finding:
    where = f"{gap.topic}, partition {gap.partition}"
    if gap.is_unknown:
        told = (
            f"{where}: the workers' group has nothing committed yet, though requests were decided "
            "on: they run still, or their worker was lost before it committed"
        )
        return Finding("offsets", "note", told, _GONE_REMEDY)
    if gap.is_set_back:
        told = f"{where}: it ends before {gap.stood_at}, where the workers' group stands"
        return Finding("offsets", "wrong", told, _SET_BACK_REMEDY)
    told = (
        f"{where}: retention deleted {gap.stood_at} to {gap.read_from} unread, {gap.lost_max} "
        "records at most"
    )
    return Finding("offsets", "wrong", told, _LOST_REMEDY)


_GONE_REMEDY = (
    "nothing: whoever takes over reads the topic from its beginning, and answers nothing twice. "
    "If it is told of a topic that was worked on for long, the group was deleted or its offsets "
    "have expired: keep a worker running, or raise the brokers' `offsets.retention.minutes`"
)

_SET_BACK_REMEDY = (
    "the topic was made anew or truncated, or the offsets were altered. Workers read it from its "
    "beginning, and answer nothing twice; bring records that are missing back from a copy"
)

_LOST_REMEDY = (
    "have upstreams send these requests again; raise the topic's `retention.ms`, or add workers"
)
