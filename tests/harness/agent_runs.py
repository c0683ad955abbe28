"""Runs of real agents with the scripted model, for tests: requests in, outcomes and tokens out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest
from millstream.schemas.ports import BeforeCall, EmitSteps, EmitToken, LoadCheckpoint
from tests import making

ACCEPTED_AT_MS = 1_000_000
NOW_MS = 1_000_500


def resolved(text: str, **fields: Any) -> ResolvedRequest:
    """Make a request as a lane works on it."""
    return making.resolved(text, at_ms=ACCEPTED_AT_MS, **{"session_id": "s1", **fields})


@dataclass
class Runs:
    """An executor around the scripted model, the tokens of its newest run and its session."""

    factory: AgentFactory = field(default_factory=lambda: AgentFactory(default_model="scripted"))
    coalesce_s: float = 0.025
    tokens: list[AgentToken] = field(default_factory=list)
    saved: CheckpointSaved | None = None

    async def run(
        self,
        request: ResolvedRequest | str,
        *,
        attempt: int = 1000,
        emit: EmitToken | None = None,
        load: LoadCheckpoint | None = None,
        executor: AgentExecutor | None = None,
        announce: bool = False,
        before_call: BeforeCall | None = None,
        ends_by_ms: int | None = None,
        calls: Calls | None = None,
        emit_step: EmitSteps | None = None,
        steps_from: int = 0,
        **fields: Any,
    ) -> RunOutcome:
        """Run a request to its end; a checkpoint that it leaves is the next run's."""
        if isinstance(request, str):
            request = resolved(request, **fields)
        self.tokens.clear()
        executor = executor or AgentExecutor(
            self.factory, coalesce_s=self.coalesce_s, clock_ms=lambda: NOW_MS
        )
        outcome = await executor.run(
            request,
            self.factory.plan(request),
            attempt=attempt,
            load_checkpoint=load or self._load,
            emit=emit or self._emit,
            announce=announce,
            before_call=before_call,
            ends_by_ms=ends_by_ms,
            calls=calls,
            emit_step=emit_step,
            steps_from=steps_from,
        )
        self.saved = outcome.checkpoint or self.saved
        return outcome

    def assert_text_is_the_tokens(self, outcome: RunOutcome) -> None:
        """Check P3: contiguous from 0, up to `last_seq`, and joined they are the output."""
        result = outcome.result
        assert [token.seq for token in self.tokens] == list(range(result.last_seq + 1))
        assert {token.attempt for token in self.tokens} <= {result.attempt}
        text = "".join(token.text for token in self.tokens)
        assert text == (result.output or "")
        if result.output is not None:
            assert result.text_sha256 == hashlib.sha256(text.encode()).hexdigest()

    async def _load(self) -> CheckpointSaved | None:
        return self.saved

    async def _emit(self, token: AgentToken) -> None:
        self.tokens.append(token)


def with_template(**fields: object) -> Runs:
    """Make runs that know a template `own` besides the built-in ones."""
    template = AgentTemplate.model_validate({"name": "own", **fields})
    return Runs(AgentFactory(default_model="scripted", templates=(*BUILT_IN_TEMPLATES, template)))
