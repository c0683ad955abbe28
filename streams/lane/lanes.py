"""The lanes of one stage in one worker: a Faust agent that hands each record to its lane."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Iterable
from functools import partial
from typing import Any

import structlog
from faust.types import TP

from millstream.middleware.pipeline import CHAIN
from millstream.schemas.errors import LaneLapsed
from millstream.schemas.topics import COMMAND_TOPICS
from millstream.streams.consumer.assignor import LaneAssignor
from millstream.streams.consumer.faust_app import build_app, give_up, stop_app
from millstream.streams.consumer.freshness import Freshness, told_commits, told_stale
from millstream.streams.consumer.membership import Lease, Membership
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.lane.base.context import LaneServices, Stage
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.metrics import Figures
from millstream.streams.lane.claims import ClaimWatch, capabilities
from millstream.streams.lane.handover import CUT_OFF_REMEDY, Handover
from millstream.streams.lane.lane import Lane
from millstream.streams.lane.slot import LaneSlot
from millstream.streams.settings import Settings
from millstream.streams.wire.records import InputRecord

log = structlog.get_logger(__name__)

_READ_FOR_S = 0.02
"""What is buffered comes without a pause, and the runs want their turn after so long."""

_BEHIND_RECORDS = 100
"""With so many records buffered, reading does not keep up with what is published."""


class Lanes:
    """Serves the partitions of `stage`'s input topic that the consumer group gives this worker."""

    def __init__(self, settings: Settings, services: LaneServices, stage: Stage) -> None:
        self._settings = settings
        self._services = services
        self._stage = stage
        self._slots: dict[int, LaneSlot] = {}
        # Partitions that are not read on until their slots have room.
        self._held_up: dict[TP, asyncio.Task[None]] = {}
        name = "lanes" if stage.name == CHAIN else f"lanes-{stage.name}"
        self.app = build_app(settings, name)
        self._membership = Membership(settings.session_timeout_s)
        self._assignor = LaneAssignor(
            partial(capabilities, services.factory),
            worker=services.worker,
            policy_digest=services.policy_digest,
        )
        self.app.membership, self.app.assignor_of_lanes = self._membership, self._assignor
        self._membership.on_evicted(self._drop_lanes)
        self._handover = Handover(
            self._assignor, grace_s=settings.revoke_grace_s, join_anew=self._join_anew
        )
        self._claims = ClaimWatch(
            self._assignor, self._slots, self._join_anew, chance=services.chance
        )
        self._claiming: asyncio.Task[None] | None = None
        topic = self.app.raw_topic(settings.topic(stage.input.name))
        agent_name = "requests" if stage.name == CHAIN else f"stage-{stage.name}"
        self.agents = [self.app.agent(topic, name=agent_name, concurrency=1)(self._read)]
        self._topics = [settings.topic(stage.input.name)]
        if stage.next is None:  # commands concern runs
            for spec in COMMAND_TOPICS:
                self._topics.append(settings.topic(spec.name))
                commands = self.app.raw_topic(self._topics[-1])
                agent = self.app.agent(commands, name=spec.name, concurrency=1)
                self.agents.append(agent(self._read))
        self.app.on_partitions_assigned.connect(self._assigned)
        self._set_back: dict[tuple[str, int], int] = {}
        self._uncommitted: set[tuple[str, int]] = set()
        self.app.on_gap, self.app.may_commit = self._gap, self._may_commit
        self._was_assigned = asyncio.Event()
        self._freshness = Freshness(self.app.answered)
        self._stopping = False

    async def start(self) -> None:
        """Join the group; returns before partitions are assigned."""
        await self.app.start()
        if self._stage.next is None:  # elsewhere nothing waits
            self._claiming = asyncio.create_task(self._claims.run(), name="claims")
            self._claiming.add_done_callback(self._claims_ended)

    def _claims_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.app.fail(error)

    async def stop(self, grace_s: float) -> bool:
        """Let what runs end within a grace, commit, cut off what is left, leave the group.

        Tells whether the group knows that it was left.
        """
        self._stopping = True
        if self._claiming is not None:
            self._claiming.cancel()
        await self._handover.stop()
        slots = tuple(self._slots.values())
        self._forget_held_up(self._slots)
        try:
            drained = await asyncio.gather(*(slot.drain(grace_s) for slot in slots))
            if not all(drained):
                log.warning(
                    "runs were cut off and left to the next owner",
                    stage=self._stage.name,
                    lanes=[
                        slot.name for slot, ended in zip(slots, drained, strict=True) if not ended
                    ],
                    remedy=CUT_OFF_REMEDY,
                )
            # Before the group is left: the next owner begins at once, and a call that is made here
            # still would be made twice at a time.
            await asyncio.gather(*(slot.close() for slot in slots))
        except asyncio.CancelledError:
            give_up(self.app)
            raise
        has_left = await stop_app(self.app)
        self._slots.clear()
        return has_left

    @property
    def failure(self) -> BaseException | None:
        """What crashed the agent, `None` while it runs."""
        return self.app.failure

    @property
    def cut_off(self) -> bool:
        """Whether no broker has answered for a while, so that nothing can be committed."""
        return bool(self._freshness.stale()) or not self._membership.fresh

    def unready(self) -> str | None:
        """Say why not all is served that is to be, `None` if it is (it may be nothing)."""
        if not self._was_assigned.is_set():
            return "waits for its partitions"
        slots = self._slots.items()
        opening = sorted(number for number, slot in slots if not (slot.serving or slot.closed))
        if opening:
            outdated = (self._slots[number].outdated for number in opening)
            opens = f"opens the lanes of partitions {', '.join(map(str, opening))}"
            return next(filter(None, outdated), opens)
        if self._assignor.missing:
            return f"waits for {self._assignor.missing} partitions that other workers work on"
        stale = self._freshness.stale()
        if unread := self.app.lacks(self._topics) or (told_stale(stale) if stale else None):
            return unread
        if not self._membership.fresh:
            return "the group's coordinator has not answered within the session time-out"
        return told_commits({number: slot.committing_s for number, slot in slots})

    def figures(self) -> Figures:
        """Count the lanes that serve, the records they hold, and the lanes that were lost."""
        slots = self._slots.values()
        return Figures(
            open=sum(slot.serving for slot in slots),
            held=sum(len(slot) for slot in slots),
            waiting=sum(slot.waiting for slot in slots),
            deferred=sum(slot.deferred for slot in slots),
            lost=sum(slot.lanes_lost for slot in slots),
            lacking=sum(sum((slot.lacking or {}).values()) for slot in slots),
            versions_lacking=sum(
                count
                for slot in slots
                for wanted, count in (slot.lacking or {}).items()
                if wanted.version is not None
            ),
            sessions=sum((slot.sessions for slot in slots), Counter()),
        )

    async def _read(self, stream: Any) -> None:
        consumer = self.app.consumer
        buffered = stream.channel.queue
        now = asyncio.get_running_loop().time
        turn_ends = now() + _READ_FOR_S
        async for event in stream.events():
            message = event.message
            if now() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = now() + _READ_FOR_S
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
            is_behind = buffered.qsize() >= _BEHIND_RECORDS
            slot.take(record, partial(message.ack, consumer), is_behind=is_behind)
            if slot.full(message.topic):
                # Only this partition waits: the others share the agent. What Faust has fetched of
                # it already still comes; `pause_partitions` would lose that.
                consumer.on_buffer_full(message.tp)
                # Faust compares with its own kind, and `message.tp` is aiokafka's.
                self._read_on_later(TP(message.topic, message.partition), slot)

    def _read_on_later(self, tp: TP, slot: LaneSlot) -> None:
        """Have a partition read on once its slot has room for more."""
        if tp not in self._held_up:
            waiting = self._held_up[tp] = asyncio.create_task(slot.room(tp.topic))
            waiting.add_done_callback(partial(self._read_on, tp))

    def _read_on(self, tp: TP, waited: asyncio.Task[None]) -> None:
        if self._held_up.get(tp) is waited:
            del self._held_up[tp]
        if not waited.cancelled():
            self.app.consumer.on_buffer_drop(tp)

    def _gap(self, gap: OffsetGap) -> None:
        """Tell of requests or commands that cannot be read, or come again."""
        slot = self._slots.get(gap.partition)
        if gap.stood_at is None:  # only the lane can tell whether they were read before
            if slot is None:  # Faust lets records through before it tells of the assignment
                self._uncommitted.add((gap.topic, gap.partition))
            else:
                slot.may_come_again(gap.topic)
            return
        self._services.gaps.tell(gap)
        topic = gap.topic.removeprefix(self._settings.topic(""))
        if not gap.is_set_back:
            self._services.metrics.lost_to_retention.labels(topic=topic).inc(gap.lost_max)
            return
        self._services.metrics.logs_set_back.labels(topic=topic).inc()
        if slot is None:
            self._set_back[gap.topic, gap.partition] = gap.stood_at
        else:
            slot.read_again(gap.topic, stood_at=gap.stood_at)

    def _may_commit(self, tp: TP) -> bool:
        slot = self._slots.get(tp.partition)
        # Of commands nobody tells whether they come again but by their marks.
        return slot is None or tp.topic != self._topics[0] or slot.may_commit(tp.topic)

    def _forget_held_up(self, numbers: Container[int]) -> None:
        for tp in [tp for tp in self._held_up if tp.partition in numbers]:
            self._held_up.pop(tp).cancel()

    def _slot_for_stray(self, tp: TP) -> LaneSlot | None:
        """Give a slot to a record that finds none, if this worker is who is to run it."""
        if self._stopping or tp.partition not in self._whole(self.app.consumer.assignment()):
            return None  # revoked since it was buffered: its next owner reads it
        # Faust lets records of a new assignment through before it tells of the assignment.
        slot = self._slots[tp.partition] = self._open_slot(tp.partition)
        return slot

    def _whole(self, assigned: Iterable[TP]) -> set[int]:
        """Give the partitions that came of all input topics: a lane needs its commands, too."""
        of_topic = {topic: set[int]() for topic in self._topics}
        for tp in assigned:
            of_topic[tp.topic].add(tp.partition)
        whole = set.intersection(*of_topic.values())
        if apart := set.union(*of_topic.values()) - whole:
            log.error("partitions came apart and are not served", partitions=sorted(apart))
        return whole

    async def _assigned(self, _app: Any, assigned: set[TP], **_: Any) -> None:
        if self._stopping:
            return  # the group deals once more before this member has left it
        mine = self._whole(assigned)
        given_back = self._assignor.given_back
        lost = set(self._slots) - mine
        self._forget_held_up(lost)
        gone = [self._slots.pop(number) for number in lost]
        # No await before this: Faust lets records through beside this call, and one that finds no
        # slot is left to the next owner, who would be this worker.
        for number in sorted(mine - given_back):
            slot = self._slots.get(number)
            if slot is None or slot.closed:
                self._forget_held_up({number})
                self._slots[number] = self._open_slot(number)
            else:
                slot.confirm()
        self._services.group_templates.tell(
            self._assignor.group_names, self._assignor.group_versions
        )
        self._was_assigned.set()
        for number in sorted(self._assignor.to_revoke & mine - given_back):
            self._handover.start(number, self._slots[number])
        if given_back:  # let go while the group was dealing already
            self._deal_again()
        await asyncio.gather(*(slot.close() for slot in gone))

    async def _join_anew(self) -> None:
        # What was acked goes with the partition, or its next owner reads it again.
        await self.app.consumer.commit()
        self._deal_again()

    def _deal_again(self) -> None:
        self.app.consumer.join_anew()

    def _drop_lanes(self) -> None:
        for slot in self._slots.values():
            slot.lose(LaneLapsed("the group gave this worker up"))

    def _open_slot(self, partition: int) -> LaneSlot:
        def make(crash_counter: CrashCounter) -> Lane:
            return Lane(
                self._settings,
                self._services,
                self._stage,
                partition,
                # A lane is of one lease: one that outlived it must not go on in the next.
                before_call=Lease(self._membership).require,
                crash_counter=crash_counter,
            )

        slot = LaneSlot(
            make,
            lease=Lease(self._membership, rights=self._services.rights),
            topics=self._topics,
            capacity=self._settings.runs_in_flight_max,
            fenced_wait_s=self._settings.session_timeout_s,
            name=f"{self._stage.name}-{partition}",
            on_lost=self._services.metrics.lanes_lost.inc,
        )
        self._tell_of_gaps(partition, slot)
        return slot

    def _tell_of_gaps(self, partition: int, slot: LaneSlot) -> None:
        """Tell a slot of gaps that were found before it was there."""
        for topic in self._topics:
            if (stood_at := self._set_back.pop((topic, partition), None)) is not None:
                slot.read_again(topic, stood_at=stood_at)
            if (topic, partition) in self._uncommitted:
                self._uncommitted.discard((topic, partition))
                slot.may_come_again(topic)


def _headers(headers: Any) -> tuple[tuple[str, bytes | None], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return tuple(pairs)
