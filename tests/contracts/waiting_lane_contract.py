"""What a lane does with requests that have to wait, or whose owner is lost: cases of both lanes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded, Decision
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import (
    ATTEMPTS,
    CONTROL,
    COSTS,
    DECISIONS,
    HOLDS,
    PARKED,
    RESERVATIONS,
    RESULTS,
)
from tests import making
from tests.contracts.lane_contract import LaneCases
from tests.harness.audit import audit, left_behind, read_records
from tests.harness.clocked_lane import LIMIT_S, clocked_lane
from tests.harness.handed_records import HandedRecords
from tests.support import eventually

PRICED = "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"

HANG = making.request(input="hang").resolved(Address(topic="t", partition=0, offset=0), 0)
PLAN = AgentFactory(default_model="scripted").plan(HANG)
HANG_MICROS = PLAN.input_tokens_max + PLAN.output_tokens_max
"""The worst case of `hang` at a micro per token."""

PARKS_SOON = {"runs_in_flight_max": 8, "runs_per_user_max": 2, "partitions": 1}
"""Settings of a lane that has room for few."""

LITTLE_ROOM = {
    "partitions": 1,
    "runs_in_flight_max": 4,
    "runs_per_user_max": 1,
    "waiting_per_user_max": 4,
}
"""Settings of a lane that has room for few, and lets few of a user wait."""

SONNET = "prices: {scripted: {input_usd_per_mtok: 3, output_usd_per_mtok: 15}}\n"
ADD = 'call: calculator {"expression": "1+1"}'
TWENTY = AgentTemplate(
    name="twenty",
    kind="react",
    tools=("calculator",),
    model_calls_max=20,
    output_tokens_max=8_192,
)
"""All of its calls may cost 2.5 US dollars and more, at these prices."""

REQUESTS_MADE = 80
OWNERS = 5


def waiting(lanes: Any) -> int:
    return sum(one.figures().waiting for one in lanes)


def in_order(found: list[AgentResult], session: str) -> bool:
    numbers = [int(one.request_id[1:]) for one in found if one.session_id == session]
    return numbers == sorted(numbers)


class TimeLimitsContract(LaneCases):
    """Cases of a template's limit on the time of a request, across attempts and owners."""

    @pytest.mark.rule(9)
    async def test_the_time_of_an_attempt_that_was_lost_counts_for_the_next_owner(
        self, world: Any
    ) -> None:
        with_, rules = self.harness, Policy.from_yaml(PRICED, "test")
        async with (
            clocked_lane(with_.lane_services, world) as at,
            with_.upstream(world) as program,
        ):
            async with with_.one_lane(world, at.services, rules) as first:
                first.serve(*await with_.ask(program, "hang", template="limited"))
                await asyncio.wait_for(at.called.wait(), 30)
            # It was on the log before the call.
            (parked,) = await with_.read_whole(world, PARKED, RunParked)
            at.clock.ahead_s += LIMIT_S // 2
            at.called.clear()
            async with with_.one_lane(world, at.services, rules):
                await asyncio.wait_for(at.called.wait(), 30)
            _, again = await with_.read_whole(world, PARKED, RunParked)
            assert 0 <= again.since_ms - parked.since_ms < 60_000
            at.clock.ahead_s += LIMIT_S // 2
            at.called.clear()
            async with with_.one_lane(world, at.services, rules):
                (result,) = await with_.read_topic(world, RESULTS, AgentResult, count=1)
        assert not at.called.is_set()
        attempts = await with_.read_whole(world, ATTEMPTS, AttemptStarted)
        assert [one.attempt for one in attempts] == [1000, 2000]
        assert result.reason is not None
        assert (result.status, result.reason.code) == ("failed", "request_timed_out")
        assert result.attempt == 3000


class LostAttemptsContract(LaneCases):
    """Cases of attempts that are lost with their owner, and may have cost."""

    @pytest.mark.rule(7)
    @pytest.mark.promise("P5")
    async def test_lost_attempts_count_at_their_worst_case_until_the_cap_lets_none_begin(
        self, world: Any
    ) -> None:
        with_ = self.harness
        cap = f"defaults: {{spend: {{micros_per_day: {3 * HANG_MICROS - 1}}}}}"
        rules = Policy.from_yaml(PRICED + cap, "test")
        async with with_.lane_services(world) as services, with_.upstream(world) as program:
            served = await with_.ask(program, "hang")
            for number in (1, 2):
                async with with_.one_lane(world, services, rules) as owner:
                    owner.serve(*served)
                    await with_.read_topic(world, ATTEMPTS, AttemptStarted, count=number)
            async with with_.one_lane(world, services, rules) as owner:
                owner.serve(*served)
                (result,) = await with_.read_topic(world, RESULTS, AgentResult, count=1)
                await eventually(lambda: owner.acked)
        spent_micros = 2 * HANG_MICROS
        assert (result.status, result.attempt, result.cost_micros) == ("failed", 3000, spent_micros)
        assert result.reason is not None
        assert result.reason.code == "budget_exceeded"
        assert "at its worst case" in result.reason.message
        costs = await with_.read_whole(world, COSTS, CostRecorded)
        assert [(cost.attempt, cost.cost_micros, cost.estimated) for cost in costs] == [
            (1000, HANG_MICROS, True),
            (2000, HANG_MICROS, True),
        ]
        started = await with_.read_whole(world, ATTEMPTS, AttemptStarted)
        assert [(one.attempt, one.spent_micros) for one in started] == [
            (1000, 0),
            (2000, HANG_MICROS),
        ]

    @pytest.mark.rule(7)
    @pytest.mark.promise("P5")
    async def test_a_lost_attempt_counts_at_its_calls_and_what_the_next_one_had_reserved(
        self, world: Any
    ) -> None:
        with_ = self.harness
        rules = Policy.from_yaml(SONNET + "defaults: {spend: {usd_per_day: 1}}", "test")
        templates = (*BUILT_IN_TEMPLATES, TWENTY)
        async with (
            with_.lane_services(world, templates=templates) as services,
            with_.upstream(world) as program,
        ):
            served = await with_.ask(program, f"{ADD}; {ADD}; hang", template="twenty")
            async with with_.one_lane(world, services, rules) as owner:
                owner.serve(*served)
                reserved = await with_.read_topic(world, RESERVATIONS, CallReserved, count=2)
            async with with_.one_lane(world, services, rules) as owner:
                owner.serve(*served)
                _, again = await with_.read_topic(world, ATTEMPTS, AttemptStarted, count=2)
                # What is left of the dollar is the user's own for other runs.
                named = {"request_id": "r2", "session_id": "s2"}
                owner.serve(*await with_.ask(program, "say: x", template="twenty", **named))
                (result,) = await with_.read_topic(world, RESULTS, AgentResult, count=1)
        assert (result.request_id, result.status) == ("r2", "completed")
        costs = await with_.read_whole(world, COSTS, CostRecorded)
        lost = [one for one in costs if one.request_id == again.request_id]
        assert [one.estimated for one in lost] == [False, False, True]
        spent_micros = sum(one.cost_micros for one in lost)
        assert spent_micros == reserved[-1].reserved_micros == again.spent_micros
        assert [one.call for one in reserved] == [1, 2]


class WaitingLaneContract(LaneCases):
    """Cases of requests that wait. All that takes time takes it `times_faster` in a subclass."""

    times_faster: int

    @pytest.mark.rule(9)
    async def test_a_record_is_not_acknowledged_before_its_parking_is_committed(
        self, world: Any
    ) -> None:
        with_ = self.harness
        pause = {"user_id": "ada", "command": "pause", "session_id": "s"}
        control = self.settings_of(world).topic(CONTROL.name)
        async with (
            with_.lane_services(world) as services,
            with_.upstream(world) as program,
            with_.one_lane(world, services, None) as zombie,
        ):
            zombie.serve(await program.publish(pause, key=b"ada", topic=control), pause)
            await with_.read_topic(world, HOLDS, HoldPlaced, count=1)
            async with with_.one_lane(world, services, None):
                zombie.serve(*await with_.ask(program, "x", session_id="s"))
                await asyncio.wait_for(zombie.lane.lost, 30)
        assert set(zombie.acked_of) <= {control}
        assert await with_.read_whole(world, PARKED, RunParked) == []

    @pytest.mark.rule(9)
    @pytest.mark.promise("P4")
    async def test_what_is_parked_is_taken_over_in_order_and_has_one_result(
        self, world: Any
    ) -> None:
        with_ = self.harness
        world = self.changed(world, **PARKS_SOON, park_after_s=0.2 / self.times_faster)
        requests = [
            {
                "user_id": "ada",
                "session_id": f"s{number % 3}",
                "request_id": f"r{number}",
                "input": f"slow: {0.2 / self.times_faster}; say: {number}",
            }
            for number in range(24)
        ]
        async with with_.upstream(world) as program:
            async with with_.running_lanes(world) as lanes:
                for request in requests:
                    await program.publish(dict(request))
                await with_.read_topic(world, DECISIONS, Decision, count=24)
                await eventually(lambda: waiting(lanes) > 5)
            # An upstream that never heard an answer publishes them all again.
            for request in requests:
                await program.publish(dict(request))
            async with with_.running_lanes(world):
                await with_.read_topic(world, RESULTS, AgentResult, count=24)
                await program.publish({"user_id": "ada", "request_id": "last", "input": "x"})
                await with_.read_topic(world, RESULTS, AgentResult, count=25)
        results = await with_.read_whole(world, RESULTS, AgentResult)
        assert len(results) == 25
        assert {result.status for result in results} == {"completed"}
        for name in ("s0", "s1", "s2"):
            assert in_order(results, name)
        assert await with_.open_keys(world, PARKED) == set()

    @pytest.mark.rule(9)
    async def test_a_mate_is_answered_while_a_flood_waits_unread(self, world: Any) -> None:
        with_ = self.harness
        world = self.changed(world, **LITTLE_ROOM, park_after_s=0.2 / self.times_faster)
        settings = self.settings_of(world)
        async with with_.running_lanes(world) as (lanes,), with_.upstream(world) as program:
            for number in range(120):
                value = {
                    "user_id": "ada",
                    "request_id": f"a{number}",
                    "session_id": f"s{number % 2}",
                    "input": f"slow: {0.05 / self.times_faster}; say: x",
                }
                await program.publish(value)  # without a key: its user is told by what it says
            await eventually(lambda: lanes.figures().deferred > 60)
            await eventually(lambda: lanes.figures().held <= settings.runs_in_flight_max)
            assert lanes.figures().waiting <= 2 * settings.waiting_per_user_max
            await program.publish({"user_id": "bob", "request_id": "b0", "input": "say: x"})
            found = await with_.read_topic(world, RESULTS, AgentResult, count=121)
            await eventually(lambda: self.is_forgotten(world))
        order = [one.request_id for one in found]
        assert len(set(order)) == 121
        assert order.index("b0") < 80
        assert in_order(found, "s0")
        assert in_order(found, "s1")
        assert await with_.open_keys(world, PARKED) == set()

    @pytest.mark.rule(9)
    async def test_no_more_is_read_while_too_many_users_wait_and_commands_come_through(
        self, world: Any
    ) -> None:
        with_ = self.harness
        few = {**LITTLE_ROOM, "park_after_s": 0.2 / self.times_faster, "parked_max": 40}
        world = self.changed(world, **few)
        async with with_.running_lanes(world) as (lanes,), with_.upstream(world) as program:

            async def results(count: int) -> list[AgentResult]:
                found: list[AgentResult] = await with_.read_topic(
                    world, RESULTS, AgentResult, count=count
                )
                return found

            async def ask_for(numbers: range, text: str) -> None:
                for number in numbers:
                    asked = {"user_id": f"u{number}", "request_id": f"r{number}", "input": text}
                    await program.publish(asked)

            async def cancelled(number: int, count: int) -> None:
                one = {"user_id": f"u{number}", "request_id": f"r{number}"}
                await with_.give(world, program, "cancel", **one)
                assert {found.status for found in await results(count)} == {"cancelled"}

            await ask_for(range(4), "hang")
            await ask_for(range(4, 44), "say: x")
            await eventually(lambda: lanes.figures().waiting == 40)
            await cancelled(43, 1)
            await ask_for(range(44, 84), "say: x")
            # It is fetched later than what was published before it would have been.
            await cancelled(42, 2)
            assert lanes.figures().waiting == 38
            for number in range(4):
                one = {"user_id": f"u{number}", "request_id": f"r{number}"}
                await with_.give(world, program, "cancel", **one)
            found = await results(84)
        assert len({one.request_id for one in found}) == 84


@dataclass(frozen=True, slots=True)
class Crashes:
    """Where the lanes of this case differ: settings, and arguments of `HandedRecords`."""

    park_after_s: float
    waiting_per_user_max: int
    handed: dict[str, Any] = field(default_factory=dict)


class ParkingCrashesContract(LaneCases):
    """Owners of a partition that are lost one after the other; a subclass gives `crashes`."""

    @pytest.mark.rule(9)
    @pytest.mark.promise("P1")
    @pytest.mark.promise("P4")
    async def test_every_request_has_one_result_and_every_session_its_order(
        self, world: Any, crashes: Crashes
    ) -> None:
        with_ = self.harness
        world = self.changed(
            world,
            partitions=1,
            runs_in_flight_max=4,
            runs_per_user_max=1,
            park_after_s=crashes.park_after_s,
            waiting_per_user_max=crashes.waiting_per_user_max,
        )
        async with with_.lane_services(world) as services, with_.upstream(world) as program:
            partition = HandedRecords(self.settings_of(world), program, **crashes.handed)
            for owner in range(OWNERS):
                async with with_.one_lane(world, services, None) as lane:
                    partition.serve_again(lane)
                    while partition.requests_made < (owner + 1) * REQUESTS_MADE // OWNERS:
                        await partition.next_step(lane)
                    if owner + 1 == OWNERS:
                        await partition.resume_all(lane)
                        await with_.read_topic(world, RESULTS, AgentResult, count=REQUESTS_MADE)
                        await eventually(lambda: self.is_forgotten(world))
                    partition.lost(lane)
        records = await read_records(world, with_.read_whole)
        verdict = audit(partition.asked, records, priced=False)
        assert verdict.faults == {}
        assert verdict.results == REQUESTS_MADE
        assert await left_behind(world, with_.open_keys) == []
