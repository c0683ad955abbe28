"""What whatever runs attempts must do, whichever event loop it runs them on."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import RunAgent
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.schemas.errors import LaneFenced, LaneLost, Suspended, Terminal
from millstream.schemas.events import AgentToken, CheckpointSaved
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.ports import BeforeCall, LoadCheckpoint
from millstream.schemas.runs.reservations import NextCall
from millstream.schemas.steps import AgentStep
from tests.harness.agent_runs import resolved
from tests.harness.blocking_agents import blocking_factory
from tests.support import eventually

WAITS = 'call: waits {"seconds": 0.01}; say: it {tool_result}'


@dataclass
class Attempts:
    """Makes attempts, and keeps what they emit."""

    run_agent: RunAgent
    factory: AgentFactory
    tokens: list[AgentToken] = field(default_factory=list)
    loops: set[asyncio.AbstractEventLoop] = field(default_factory=set)

    async def make(
        self,
        text: str,
        *,
        template: str = "blocks",
        announce: bool = False,
        before_call: BeforeCall | None = None,
        load: LoadCheckpoint | None = None,
        emit_error: Exception | None = None,
        calls: Calls | None = None,
        ends_by_ms: int | None = None,
    ) -> RunOutcome:
        """Make one."""
        request = resolved(text, template=template)

        async def emit(token: AgentToken) -> None:
            self.loops.add(asyncio.get_running_loop())
            if emit_error is not None:
                raise emit_error
            self.tokens.append(token)

        async def nothing() -> CheckpointSaved | None:
            self.loops.add(asyncio.get_running_loop())
            return None

        async def goes_on() -> None:
            self.loops.add(asyncio.get_running_loop())

        return await self.run_agent(
            request,
            self.factory.plan(request),
            attempt=1000,
            load_checkpoint=load or nothing,
            emit=emit,
            announce=announce,
            before_call=before_call or goes_on,
            ends_by_ms=ends_by_ms,
            calls=calls,
        )


class Lane:
    """What an attempt of a lane is handed; stands for all that it holds on to while it goes on."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.facts = 0

    async def load(self) -> CheckpointSaved | None:
        """Have none."""
        return None

    async def emit(self, token: AgentToken) -> None:
        """Forget it."""

    async def emit_step(self, steps: Sequence[AgentStep]) -> None:
        """Forget them."""

    async def commit_step(self, fact: JournalStep, *, next_call: NextCall | None = None) -> None:
        """Count it."""
        self.facts += fact is not next_call

    async def reserve_call(self, call: NextCall) -> None:
        """Let it go on."""

    async def before_call(self) -> None:
        """Let it go on."""


class RunAgentContract:
    """Cases; a subclass gives what runs attempts of a factory, by the fixture `run_agent`."""

    @pytest.fixture
    def factory(self) -> AgentFactory:
        return blocking_factory(request_timeout_s=60)

    @pytest.fixture
    async def attempts(self, run_agent: RunAgent, factory: AgentFactory) -> AsyncIterator[Attempts]:
        attempts = Attempts(run_agent, factory)
        yield attempts
        # Whatever it was asked for, it was asked on the loop of who made the attempt.
        assert attempts.loops <= {asyncio.get_running_loop()}

    @pytest.mark.parametrize("template", ["chat_agent", "blocks"])
    async def test_the_result_is_what_was_emitted(self, attempts: Attempts, template: str) -> None:
        outcome = await attempts.make("say: hello to all of you", template=template)
        result = outcome.result
        assert (result.status, result.output) == ("completed", "hello to all of you")
        assert "".join(token.text for token in attempts.tokens) == result.output
        assert [token.seq for token in attempts.tokens] == list(range(result.last_seq + 1))
        assert outcome.checkpoint is not None
        assert outcome.usage_known
        assert result.usage.output_tokens > 0

    async def test_tools_are_called_and_their_answers_kept(self, attempts: Attempts) -> None:
        calls = Calls()
        outcome = await attempts.make(WAITS, calls=calls)
        assert outcome.result.output == "it waited 0.01 s"
        attempts.tokens.clear()
        again = await attempts.make(WAITS, calls=calls)
        assert again.result.output == "it waited 0.01 s"

    @pytest.mark.parametrize(
        ("template", "text"),
        [("chat_agent", "hello"), ("blocks", "say: hello"), ("blocks", WAITS), ("blocks", "fail")],
    )
    async def test_what_is_over_leaves_nothing_to_the_garbage_collector(
        self, run_agent: RunAgent, factory: AgentFactory, template: str, text: str
    ) -> None:
        lane = Lane()
        gone = weakref.ref(lane)
        request = resolved(text, template=template)
        gc.collect()
        gc.disable()
        try:
            await run_agent(
                request,
                factory.plan(request),
                attempt=1000,
                load_checkpoint=lane.load,
                emit=lane.emit,
                before_call=lane.before_call,
                calls=lane.calls,
                emit_step=lane.emit_step,
                commit_step=lane.commit_step,
                reserve_call=lane.reserve_call,
            )
            assert lane.facts or text != WAITS
            del lane
            await eventually(lambda: gone() is None)
        finally:
            gc.enable()

    async def test_an_attempt_is_announced_before_anything_else(self, attempts: Attempts) -> None:
        seen: list[int] = []

        async def before_call() -> None:
            seen.append(len(attempts.tokens))

        await attempts.make("say: hello", announce=True, before_call=before_call)
        assert seen == [1]
        assert [token.text for token in attempts.tokens] == ["", "hello"]

    @pytest.mark.parametrize("text", ["hang", 'call: waits {"seconds": 60}'])
    async def test_what_is_cancelled_emits_no_more_and_leaves_nothing(
        self, attempts: Attempts, text: str
    ) -> None:
        called = asyncio.Event()

        async def before_call() -> None:
            called.set()

        running = asyncio.create_task(attempts.make(text, before_call=before_call))
        await called.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert running.cancelled()
        assert attempts.tokens == []

    @pytest.mark.parametrize("error", [LaneLost("gone"), LaneFenced("newer")])
    async def test_a_lost_lane_is_raised_from_where_a_token_leaves(
        self, attempts: Attempts, error: LaneLost
    ) -> None:
        with pytest.raises(type(error)):
            await attempts.make("say: hello", emit_error=error)

    @pytest.mark.parametrize("text", ["say: hello", WAITS])
    async def test_a_lost_lane_is_raised_from_before_a_call(
        self, attempts: Attempts, text: str
    ) -> None:
        asked = 0

        async def lost() -> None:
            nonlocal asked
            asked += 1
            if asked == text.count("; ") + 1:
                message = "gone"
                raise LaneLost(message)

        with pytest.raises(LaneLost):
            await attempts.make(text, before_call=lost)

    async def test_a_lost_lane_is_raised_from_the_loading_of_a_checkpoint(
        self, attempts: Attempts
    ) -> None:
        async def lost() -> CheckpointSaved | None:
            message = "gone"
            raise LaneLost(message)

        with pytest.raises(LaneLost):
            await attempts.make("say: hello", load=lost)

    async def test_a_suspended_attempt_says_so(self, attempts: Attempts) -> None:
        async def paused() -> None:
            message = "paused"
            raise Suspended(message)

        outcome = await attempts.make(WAITS, before_call=paused)
        assert outcome.suspended
        assert not outcome.retryable

    async def test_a_token_that_nothing_can_hold_fails_the_attempt(
        self, attempts: Attempts
    ) -> None:
        outcome = await attempts.make("say: hello", emit_error=Terminal("too large"))
        assert outcome.result.reason is not None
        assert outcome.result.reason.message == "too large"
        assert outcome.result.output is None

    @pytest.mark.parametrize(
        ("text", "code", "retryable"),
        [("fail: no", "failed", False), ("retry: not yet", "model_failed", True)],
    )
    async def test_errors_keep_their_type(
        self, attempts: Attempts, text: str, code: str, *, retryable: bool
    ) -> None:
        outcome = await attempts.make(text)
        assert outcome.result.reason is not None
        assert (outcome.result.reason.code, outcome.retryable) == (code, retryable)

    async def test_text_that_was_shown_before_a_failure_is_the_results(
        self, attempts: Attempts
    ) -> None:
        outcome = await attempts.make("tokens: 3; fail: no")
        text = "".join(token.text for token in attempts.tokens)
        assert outcome.result.output == text != ""
        assert outcome.result.text_sha256 == hashlib.sha256(text.encode()).hexdigest()

    async def test_a_time_limit_that_has_passed_ends_it(self, attempts: Attempts) -> None:
        outcome = await attempts.make("say: hello", ends_by_ms=1)
        assert outcome.result.reason is not None
        assert outcome.result.reason.code == "request_timed_out"

    async def test_many_run_side_by_side(self, attempts: Attempts) -> None:
        outcomes = await asyncio.gather(
            *(attempts.make(f"slow: 0.05; say: {number}") for number in range(50))
        )
        assert [each.result.output for each in outcomes] == [str(number) for number in range(50)]

    async def test_an_attempt_that_is_over_holds_nothing(self, attempts: Attempts) -> None:
        before = len(asyncio.all_tasks())
        await attempts.make(WAITS)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
