"""Putting dead letters back, each once, in one transaction with the record that says so.

Whoever redrives a partition's dead letters fences everybody who did before, reads what was put
back, and writes the record to its topic together with a `DeadLetterRedriven`: either both are there
or none. So of two operators at once one is fenced, and a crash leaves nothing half done. No lane
reads the topic of those records when it restores, so this transaction hides nothing from it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    ProducerFenced,
)

from millstream.schemas.base import Address, partition_key
from millstream.schemas.dead_letters import (
    BatchLost,
    CannotRedrive,
    DeadLetter,
    DeadLetterRedriven,
    NullValue,
    RecordTooLarge,
)
from millstream.schemas.errors import LaneLost, Poison
from millstream.schemas.events import Redriven, ResolvedRequest
from millstream.schemas.topics import COMMAND_TOPICS, REDRIVES, REQUESTS, stage_topic
from millstream.streams.broker.clients import not_reached, transactional_producer
from millstream.streams.broker.failed_sends import REFUSED_AS_TOO_LARGE
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.history.dead_letters import Buried, read_letter, record_at
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import (
    CONTENT_TYPE,
    ORIGIN,
    REDRIVEN,
    decode,
    encode,
    is_structured,
)
from millstream.streams.wire.headers import (
    NO_HEADERS,
    DroppedHeaders,
    dropped_headers,
    forwarded_headers,
    is_kept,
)
from millstream.streams.wire.records import (
    USER_KEY_BYTES_MAX,
    InputRecord,
    original_address,
    read_request,
    read_stage_request,
    user_of,
)
from millstream.streams.wire.unread import UnreadBatch

__all__ = ["AS_IT_WAS", "Mend", "Redrive", "Redriver"]

# The lanes that read the topic wait for an open transaction: for one of a killed operator so long.
_COMMIT_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 30.0
_FENCINGS_MAX = 5
_FENCED_PAUSE_S = 1.0
_STOP_TIMEOUT_S = 5.0
_FENCED = (ProducerFenced, InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class Redrive:
    """What came of a redrive.

    `redriven_as` is where the record stands; `first` is false if it had been put back before, and
    nothing was written now. `unreadable` is why this program could not read it either. The record
    lacks the original's `headers_dropped`; empty if nothing was written now.
    """

    redriven_as: Address
    first: bool
    unreadable: Poison | None = None
    headers_dropped: DroppedHeaders = NO_HEADERS


@dataclass(frozen=True, slots=True)
class Mend:
    """What a record is put back with instead of its own; `None`: its own.

    A key that is longer than any user's gives way to that of the mended value's user. Without
    `keeps_headers` it has none but that which says what it was put back from.
    """

    value: bytes | None = None
    key: bytes | None = None
    keeps_headers: bool = True


AS_IT_WAS: Final = Mend()
"""Nothing is mended."""


class Redriver:
    """Puts dead letters back, one after the other.

    Remembers the addresses of what was put back on each partition that it works on, as long as
    `redrives` keeps them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writing = settings.model_copy(update={"commit_timeout_s": _COMMIT_TIMEOUT_S})
        self._reader = PartitionReader(settings)
        self._producers: dict[int, AIOKafkaProducer] = {}
        self._redriven: dict[int, dict[str, Address]] = {}
        self._open: set[int] = set()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connect. Raises `ServiceUnavailable`."""
        try:
            await self._reader.start()
        except BaseException:
            await self._reader.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        for partition in tuple(self._producers):
            await self._drop(partition)
        await self._reader.stop()

    async def redrive(
        self, buried: Buried, value: bytes | None = None, *, leave_unreadable: bool = False
    ) -> Redrive:
        """Put a record back as `mend` does, with nothing but a value instead of its own."""
        return await self.mend(buried, Mend(value), leave_unreadable=leave_unreadable)

    async def mend(self, buried: Buried, mend: Mend, *, leave_unreadable: bool = False) -> Redrive:
        """Put a record back on the topic that it came from, with what `mend` gives instead.

        The request has the id that its first record would have had, unless its value names one;
        its time is the broker's, now. What this program cannot read is put back all the same, for
        the workers may be newer, unless it is to `leave_unreadable`. Raises `CannotRedrive`, of a
        batch of several records `BatchLost`, `DeadLetterNotFound` and `ServiceUnavailable`; after
        the last the record may have been put back: ask again.
        """
        self._require_lanes(buried.source, mended=mend != AS_IT_WAS)
        async with self._turn:
            for _ in range(_FENCINGS_MAX):
                try:
                    return await self._once(buried, mend, leave_unreadable=leave_unreadable)
                except _FENCED:
                    # Somebody else puts back this partition's dead letters. Let them end: who
                    # fences them at once is fenced in turn.
                    self._open.discard(buried.source.partition)
                    await self._drop(buried.source.partition)
                    await asyncio.sleep(_FENCED_PAUSE_S)
                except (KafkaError, TimeoutError, LaneLost) as error:
                    self._open.discard(buried.source.partition)
                    await self._drop(buried.source.partition)
                    raise not_reached(self._settings, error) from error
        raise CannotRedrive(f"others put back dead letters of {buried.source.topic}: try again")

    async def _once(self, buried: Buried, mend: Mend, *, leave_unreadable: bool) -> Redrive:
        partition = buried.source.partition
        producer = await self._producer(partition)
        known = self._redriven[partition]
        before = known.get(str(buried.source))
        if before is not None:
            return Redrive(before, first=False)  # its bytes may be gone by now
        if buried.records > 1:
            raise BatchLost(
                f"{buried.source} stands for a batch of {buried.records} records (offsets "
                f"{buried.first_offset} to {buried.source.offset}), none of which can be read: no "
                "value can stand for all of them; send them again, in smaller batches"
            )
        mended = mend.value is not None
        original = await self._mended(buried, mend)
        again = _put_back(original, buried, keeps_headers=mend.keeps_headers)
        request, unreadable = self._forecast(again)
        if unreadable is not None and mended:
            raise CannotRedrive(
                f"the mended value cannot be read, {unreadable.code}: {unreadable}"
                f"{_how_else(unreadable)}"
            )
        if unreadable is not None and leave_unreadable:
            raise CannotRedrive(
                f"it would be a dead letter again, {unreadable.code}: {unreadable}"
                f"{_how_else(unreadable)}; mend it, or put it back by its address if the workers "
                "are newer than this program"
            )
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await producer.begin_transaction()
                self._open.add(partition)
                sent = await producer.send_and_wait(
                    again.topic, again.value, again.key, partition, headers=[*again.headers]
                )
                redriven_as = Address(topic=again.topic, partition=partition, offset=sent.offset)
                marker = encode(
                    _marker(buried, redriven_as, request, mended=mended),
                    source=f"/{self._settings.namespace}/redrive/{partition}",
                )
                await producer.send_and_wait(
                    self._settings.topic(REDRIVES.name),
                    marker.value,
                    marker.key,
                    partition,
                    headers=marker.headers,
                )
                self._open.discard(partition)
                await producer.commit_transaction()
        except REFUSED_AS_TOO_LARGE as error:
            # Its sequence numbers are out of order from here on: the next one begins anew.
            await self._drop(partition)
            message = f"a record of {again.size_bytes} bytes is too large for {again.topic}"
            raise CannotRedrive(message) from error
        known[str(buried.source)] = redriven_as
        # Of one whose bytes the dead letter does not hold, an earlier version named no headers.
        dropped = buried.headers_dropped
        if not dropped.count:
            dropped = dropped_headers(original.headers)
        if not mend.keeps_headers:
            left_out = sum(is_kept(name) for name, _ in original.headers)
            dropped = replace(dropped, count=dropped.count + left_out)
        return Redrive(redriven_as, first=True, unreadable=unreadable, headers_dropped=dropped)

    def _require_lanes(self, source: Address, *, mended: bool) -> None:
        """Refuse what no lane would read, or would not read so."""
        topic = source.topic
        if topic in {self._settings.topic(one.name) for one in COMMAND_TOPICS}:
            raise CannotRedrive(
                f"{source} is a command, and commands are not put back: give it again, "
                "if it is still wanted"
            )
        stages = {self._settings.topic(stage_topic(cut).name) for cut in self._settings.chain_cuts}
        if topic not in {self._settings.topic(REQUESTS.name), *stages}:
            raise CannotRedrive(f"no lane reads {topic}: it is neither requests nor a stage of now")
        if topic in stages and mended:
            raise CannotRedrive(
                f"a record of {topic} says what was decided before: it is put back as it was, or "
                "its request is published anew; it takes no other value"
            )

    async def _mended(self, buried: Buried, mend: Mend) -> InputRecord:
        """Give the record to put back, at the place of the original."""
        value = mend.value
        letter = await read_letter(self._reader, buried)
        record = _kept(letter)
        if record is None:
            record = await self._original(letter, keep_value=value is None)
        if mend.key is not None:
            record = replace(record, key=mend.key)
        if value is not None:
            return replace(record, value=value, key=_key_for(record.key, value))
        if isinstance(record.value, UnreadBatch):
            raise CannotRedrive(f"{record.value.poison}; give a value")
        if record.value is None:
            message = "the record had no value, and cannot be read without: give one"
            raise CannotRedrive(message)
        return record

    async def _original(self, letter: DeadLetter, *, keep_value: bool) -> InputRecord:
        """Read a record that was too large to be kept where it first stood."""
        source = letter.source
        async with aclosing(record_at(self._reader, source)) as records:
            async for record in records:
                return record
        if not keep_value:
            key = _bytes(letter.key)
            return InputRecord(source.topic, source.partition, source.offset, 0, key, None, ())
        raise CannotRedrive(
            f"its bytes were too many to be kept, and {source.topic} does not have them any more: "
            "give a value"
        )

    def _forecast(self, record: InputRecord) -> tuple[ResolvedRequest | None, Poison | None]:
        """Say as what request the lanes will read a record, or why they cannot."""
        try:
            if record.topic == self._settings.topic(REQUESTS.name):
                return read_request(record), None
            return read_stage_request(record).request, None
        except Poison as poison:
            return None, poison

    async def _producer(self, partition: int) -> AIOKafkaProducer:
        """Fence everybody else and learn what they put back, unless we are the last who did."""
        if partition in self._producers:
            return self._producers[partition]
        name = f"{self._settings.namespace}-redrive-{partition}"
        producer = self._producers[partition] = transactional_producer(self._writing, name)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await producer.start()
            self._redriven[partition] = await self._read_redriven(partition)
        except BaseException:
            await self._drop(partition)
            raise
        return producer

    async def _read_redriven(self, partition: int) -> dict[str, Address]:
        where = TopicPartition(self._settings.topic(REDRIVES.name), partition)
        known: dict[str, Address] = {}
        async for record in self._reader.read(await self._reader.high_watermarks([where])):
            with suppress(Poison):  # a foreign record: only redrivers write here
                marker = decode(record, DeadLetterRedriven)
                known[str(marker.source)] = marker.redriven_as
        return known

    async def _drop(self, partition: int) -> None:
        """Let a producer go; what it could not abort is aborted by the next of its name."""
        producer = self._producers.pop(partition, None)
        if producer is None:
            return
        try:
            # Only what is whole can be aborted: not after a fencing, nor once it is committing.
            if partition in self._open:
                self._open.discard(partition)
                with suppress(KafkaError, TimeoutError):
                    await asyncio.wait_for(producer.abort_transaction(), _STOP_TIMEOUT_S)
        finally:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT_S)


def _key_for(key: bytes | None, value: bytes) -> bytes | None:
    """Give the key that a mended value is put back with: a key that is no user's, the user's."""
    if len(key or b"") <= USER_KEY_BYTES_MAX:
        return key
    user = user_of(value)
    return key if user is None else partition_key(*user).encode()


def _how_else(poison: Poison) -> str:
    if not isinstance(poison, RecordTooLarge):
        return ""
    return " (--key gives it another key, --no-headers leaves its headers out)"


def _put_back(record: InputRecord, buried: Buried, *, keeps_headers: bool = True) -> InputRecord:
    """Give the record as it will be read: behind the original, with a header that names that."""
    named = (
        Redriven(source=original_address(record), buried=buried.source).model_dump_json().encode()
    )
    # A header that says what no lane reads would make a mended value a dead letter again.
    unread = (CONTENT_TYPE,) if is_structured(record) else ()
    others = forwarded_headers(record.headers, replaced=(ORIGIN, REDRIVEN, *unread))
    kept = others if keeps_headers else ()
    return replace(record, offset=record.offset + 1, headers=(*kept, (REDRIVEN, named)))


def _marker(
    buried: Buried, redriven_as: Address, request: ResolvedRequest | None, *, mended: bool
) -> DeadLetterRedriven:
    whose: dict[str, Any] = {}
    if request is not None:
        whose = {name: getattr(request, name) for name in ("tenant", "user_id", "request_id")}
    return DeadLetterRedriven(
        at_ms=time.time_ns() // 1_000_000,
        source=buried.source,
        redriven_as=redriven_as,
        mended=mended,
        **whose,
    )


def _kept(letter: DeadLetter) -> InputRecord | None:
    """Give the record that a dead letter holds, `None` if it was too large for that."""
    if letter.value is None and letter.reason.code != NullValue.code:
        return None
    return InputRecord(
        topic=letter.source.topic,
        partition=letter.source.partition,
        offset=letter.source.offset,
        timestamp=letter.source_at_ms,
        key=_bytes(letter.key),
        value=_bytes(letter.value),
        headers=tuple((name, _bytes(value)) for name, value in letter.headers),
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
