"""aiokafka clients, built from the settings in one place, and secured as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.topics import DEAD_LETTERS
from millstream.streams.broker.aiokafka_patches import bound_fetches
from millstream.streams.broker.failed_sends import hear_failed_sends
from millstream.streams.broker.fetched.eager_fetcher import fetch_eagerly
from millstream.streams.broker.recovery import RecoveringClient, recover_brokers
from millstream.streams.broker.security.live import live_security
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.telemetry.causes import DENIED, causes_of

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


def connecting(settings: Settings) -> dict[str, Any]:
    """Give what each client of aiokafka's is made with: where brokers are, and what secures them.

    Whoever makes a client of another kind than those below makes it with these too. Raises
    `Misconfigured` for settings of security that are wrong.
    """
    recover_brokers()
    security = live_security(settings)
    # aiokafka hands both on to its connections, which are made by the second one alone. The first
    # has it check nothing, and fail rather than send anything unsecured.
    plain = security.is_plaintext
    return {
        "bootstrap_servers": settings.kafka,
        "security_protocol": "PLAINTEXT" if plain else "SSL",
        "ssl_context": security,
    }


def not_reached(settings: Settings, error: BaseException) -> ServiceUnavailable:
    """Give what an error of a client means, in a line for people. Raises nothing."""
    return not_reached_at(settings.kafka, error)


def not_reached_at(address: str, error: BaseException) -> ServiceUnavailable:
    """Give what an error of a client means, in a line for people, that is to say where Kafka is.

    Whatever it was raised from may be the reason: a refusal says what to mend, and that this user
    lacks a right is no fault of a broker's.
    """
    for cause in causes_of(error, beside=True):
        if isinstance(cause, AccessRefused):  # it names the address
            return ServiceUnavailable(f"Kafka is not reached at {cause}")
        if isinstance(cause, DENIED):
            return ServiceUnavailable(
                f"this user lacks a right on Kafka at {address} ({cause!r}): `millstream doctor` "
                "says which, with the command that grants it"
            )
    return ServiceUnavailable(f"Kafka does not answer at {address}: {_words(error)}")


def _words(error: BaseException) -> str:
    """Give an error's words, or its name where it has none."""
    return str(error) or repr(error)


def idempotent_producer(settings: Settings) -> AIOKafkaProducer:
    """Build a producer whose sends are acknowledged by all in-sync replicas and never doubled."""
    hear_failed_sends()
    return AIOKafkaProducer(
        **connecting(settings),
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
    hear_failed_sends()
    return AIOKafkaProducer(
        **connecting(settings),
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
        **connecting(settings),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def ends_consumer(settings: Settings) -> AIOKafkaConsumer:
    """Build a consumer that reads nothing: its `end_offsets` are high watermarks."""
    return AIOKafkaConsumer(
        **connecting(settings),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_uncommitted",
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )


def admin_client(settings: Settings) -> AIOKafkaAdminClient:
    """Build an administration client."""
    return AIOKafkaAdminClient(**connecting(settings))


def raw_client(settings: Settings) -> RecoveringClient:
    """Build a client for requests that no other client makes."""
    return RecoveringClient(**connecting(settings), metadata_max_age_ms=_METADATA_MAX_AGE_MS)
