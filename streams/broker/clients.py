"""aiokafka clients, built from the settings in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from millstream.schemas.topics import DEAD_LETTERS
from millstream.streams.broker.aiokafka_patches import bound_fetches
from millstream.streams.broker.failed_sends import hear_failed_sends
from millstream.streams.broker.fetched.eager_fetcher import fetch_eagerly
from millstream.streams.broker.recovery import RecoveringClient, recover_brokers

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

REQUEST_BYTES_MAX = DEAD_LETTERS.record_bytes_max + 4096

BATCH_BYTES = 262_144

_FETCH_WAIT_MS = 100
_METADATA_MAX_AGE_MS = 30_000


def mend_consumers() -> None:
    """Have every aiokafka consumer of this process read as ours do; may be called again."""
    recover_brokers()
    bound_fetches()
    fetch_eagerly()


def idempotent_producer(settings: Settings) -> AIOKafkaProducer:
    """Build a producer whose sends are acknowledged by all in-sync replicas and never doubled."""
    recover_brokers()
    hear_failed_sends()
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka,
        enable_idempotence=True,
        max_request_size=REQUEST_BYTES_MAX,
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def transactional_producer(
    settings: Settings, transactional_id: str, *, timeout_s: float | None = None
) -> AIOKafkaProducer:
    """Build a producer of transactions; starting it fences every earlier one of the same id.

    One that is left open is ended after `timeout_s`, by default twice the limit of a commit.
    """
    if timeout_s is None:
        timeout_s = settings.commit_timeout_s * 2
    recover_brokers()
    hear_failed_sends()
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka,
        transactional_id=transactional_id,
        transaction_timeout_ms=int(timeout_s * 1000),
        max_batch_size=BATCH_BYTES,
        max_request_size=REQUEST_BYTES_MAX,
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def committed_consumer(settings: Settings) -> AIOKafkaConsumer:
    """Build a consumer without a group that sees committed records only; assign it by hand."""
    mend_consumers()
    return AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def ends_consumer(settings: Settings) -> AIOKafkaConsumer:
    """Build a consumer that reads nothing: its `end_offsets` are high watermarks."""
    recover_brokers()
    return AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_uncommitted",
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def admin_client(settings: Settings) -> AIOKafkaAdminClient:
    """Build an administration client."""
    recover_brokers()
    return AIOKafkaAdminClient(bootstrap_servers=settings.kafka)


def raw_client(settings: Settings) -> RecoveringClient:
    """Build a client for requests that no other client makes."""
    recover_brokers()
    return RecoveringClient(
        bootstrap_servers=settings.kafka, metadata_max_age_ms=_METADATA_MAX_AGE_MS
    )
