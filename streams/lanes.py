"""The lanes of one stage in one worker: a Faust agent that hands each record to its lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from faust.types import TP

from schemas.topics import CONTROL
from streams.blame import Blame
from streams.faust_app import build_app, stop_app
from streams.intake import InputRecord
from streams.lane import Lane
from streams.lane_metrics import Figures
from streams.lane_parts import CHAIN, LaneServices, Stage
from streams.lane_slot import LaneSlot
from streams.settings import Settings

log = structlog.get_logger(__name__)

DRAIN_GRACE_S = 10.0

_READ_AT_ONCE_MAX = 32


class Lanes:
    """Serves the partitions of `stage`'s input topic that the consumer group gives this worker."""

    def __init__(self, settings: Settings, services: LaneServices, stage: Stage) -> None:
        self._settings = settings
        self._services = services
        self._stage = stage
        self._slots: dict[int, LaneSlot] = {}
        name = "lanes" if stage.name == CHAIN else f"lanes-{stage.name}"
        self.app = build_app(settings, name)
        topic = self.app.raw_topic(settings.topic(stage.input.name))
        agent_name = "requests" if stage.name == CHAIN else f"stage-{stage.name}"
        self.agents = [self.app.agent(topic, name=agent_name, concurrency=1)(self._read)]
        self._topics = [settings.topic(stage.input.name)]
        if stage.next is None:  # commands concern runs
            self._topics.append(settings.topic(CONTROL.name))
            control = self.app.raw_topic(self._topics[-1])
            self.agents.append(self.app.agent(control, name="control", concurrency=1)(self._read))
        self.app.on_partitions_assigned.connect(self._assigned)
        self._was_assigned = asyncio.Event()

    async def start(self) -> None:
        """Join the group; returns before partitions are assigned."""
        await self.app.start()

    async def stop(self) -> None:
        """Let what runs end within a grace, commit, leave the group."""
        drained = await asyncio.gather(
            *(slot.drain(DRAIN_GRACE_S) for slot in self._slots.values())
        )
        if not all(drained):
            log.warning("runs were left to the next owner", stage=self._stage.name)
        await stop_app(self.app)
        await asyncio.gather(*(slot.close() for slot in self._slots.values()))
        self._slots.clear()

    @property
    def failure(self) -> BaseException | None:
        """What crashed the agent, `None` while it runs."""
        return self.app.failure

    def unready(self) -> str | None:
        """Say why requests are not served, `None` if they are (or other workers have them all)."""
        if not self._was_assigned.is_set():
            return "waits for its partitions"
        opening = sorted(number for number, slot in self._slots.items() if not slot.serving)
        if opening:
            return f"opens the lanes of partitions {', '.join(map(str, opening))}"
        return None

    def figures(self) -> Figures:
        """Count the lanes that serve, the records they hold, and the lanes that were lost."""
        slots = self._slots.values()
        return Figures(
            open=sum(slot.serving for slot in slots),
            held=sum(len(slot) for slot in slots),
            waiting=sum(slot.waiting for slot in slots),
            lost=sum(slot.lanes_lost for slot in slots),
        )

    async def _read(self, stream: Any) -> None:
        consumer = self.app.consumer
        count = 0
        async for event in stream.events():
            message = event.message
            count += 1
            if count % _READ_AT_ONCE_MAX == 0:
                # What is buffered comes without a pause, and the runs want their turn.
                await asyncio.sleep(0)
            # The stream's own ack only takes back its share: the record is acked when it is done.
            message.incref()
            slot = self._slots.get(message.partition)
            if slot is None:  # not "if not slot": an empty one is still there
                slot = self._slot_for_stray(message.tp)
            if slot is None:
                continue
            record = InputRecord(
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                timestamp=round(message.timestamp * 1000),
                key=message.key,
                value=message.value,
                headers=_headers(message.headers),
            )
            slot.take(record, partial(message.ack, consumer))
            if slot.full(message.topic):
                # Only this partition waits: the others share the agent. What Faust has fetched of
                # it already still comes; `pause_partitions` would lose that.
                consumer.on_buffer_full(message.tp)

    def _slot_for_stray(self, tp: TP) -> LaneSlot | None:
        """Give a slot to a record that finds none, if this worker is who is to run it."""
        if tp not in self.app.consumer.assignment():
            return None  # revoked since it was buffered: its next owner reads it
        if tp.topic != self._topics[0]:
            # To open a lane for it would fence the partition's owner. It stays unacked, and comes
            # again with the next rebalance.
            log.error(
                "a command came where its lane is not", topic=tp.topic, partition=tp.partition
            )
            return None
        # Faust lets records of a new assignment through before it tells of the assignment.
        slot = self._slots[tp.partition] = self._open_slot(tp.partition)
        return slot

    async def _assigned(self, _app: Any, assigned: set[Any], **_: Any) -> None:
        # Faust gives a worker the same partitions of all topics that have as many of them.
        mine = {tp.partition for tp in assigned if tp.topic == self._topics[0]}
        for topic in self._topics[1:]:
            if mine != {tp.partition for tp in assigned if tp.topic == topic}:
                log.error("partitions came apart", topic=topic, partitions=sorted(mine))
        gone = [self._slots.pop(number) for number in set(self._slots) - mine]
        # No await before this: Faust lets records through beside this call, and one that finds no
        # slot is left to the next owner, who would be this worker.
        for number in sorted(mine):
            slot = self._slots.get(number)
            if slot is None:
                self._slots[number] = self._open_slot(number)
            else:
                slot.confirm()
        self._was_assigned.set()
        await asyncio.gather(*(slot.close() for slot in gone))

    def _open_slot(self, partition: int) -> LaneSlot:
        def make(blame: Blame, on_lane_room: Callable[[], None]) -> Lane:
            return Lane(
                self._settings,
                self._services,
                self._stage,
                partition,
                blame=blame,
                on_room=on_lane_room,
            )

        def on_room(topic: str) -> None:
            self.app.consumer.on_buffer_drop(TP(topic, partition))

        return LaneSlot(
            make,
            topics=self._topics,
            capacity=self._settings.runs_in_flight_max,
            fenced_wait_s=self._settings.session_timeout_s,
            name=f"{self._stage.name}-{partition}",
            on_room=on_room,
        )


def _headers(headers: Any) -> tuple[tuple[str, bytes | None], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return tuple(pairs)
