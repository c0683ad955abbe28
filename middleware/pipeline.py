"""The chain: layers in the order of their priority, asked in order, whole or cut into stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, Final

from millstream.middleware.auth import AuthMiddleware
from millstream.middleware.base import (
    AgentMiddleware,
    AttemptQuote,
    AttemptUsage,
    CallQuote,
    MiddlewareContext,
    MiddlewareResult,
    RunAccount,
    SessionTerms,
    Settlement,
)
from millstream.middleware.containment import asked, told, wrong_settlement
from millstream.middleware.cost import CostTrackingMiddleware
from millstream.middleware.layer_states import LayerStates
from millstream.middleware.log import LoggingMiddleware
from millstream.middleware.policy import Policy
from millstream.middleware.policy_errors import nearest
from millstream.middleware.prices import PriceTable
from millstream.middleware.rate_limit import RateLimitMiddleware
from millstream.schemas.base import Event, Usage, saturated
from millstream.schemas.errors import LayerFailed, Misconfigured, Rejected
from millstream.schemas.events import AgentResult, AttemptStarted, Decision, ResolvedRequest
from millstream.schemas.reasons import reason_of
from millstream.schemas.runs.reservations import NextCall

CHAIN = "chain"
"""The name of the first stage, which is the only one where the chain is not cut."""

EXECUTOR = "executor"
"""Stands for the executor in a chain's cuts: what comes last, after every layer."""


class MiddlewarePipeline:
    """A chain, or one stage of it. Holds its layers' state: one pipeline per lane.

    `layers` are asked and folded into here. `chain` are the layers of the whole chain: their result
    side and their reports read no folded state, so every stage runs all of them, and a result is
    settled alike wherever it is made (the executor's stage, or the one that rejects).

    What the lane does: `decide`, write the decision; before each attempt `begin`, write the mark
    that it gives; after each `charge`, write the events; in the end `settle`, write the result and
    its events, and `fold` each of them. On restore it folds the committed events of the types
    `folds`, decisions and attempts first, from `history_ms` before the newest decision on.

    `needs` are the types of event that layers here fold and another stage writes: a stage with the
    cost layer but without the executor must be fed the committed attempts, costs and results of
    its partition, live too, or its reservations would never end. Fed late, it refuses
    too early; it never admits too much. The executor's own stage needs nothing.
    """

    def __init__(
        self,
        layers: Iterable[AgentMiddleware],
        *,
        chain: Iterable[AgentMiddleware] | None = None,
        runs_executor: bool = True,
    ) -> None:
        self.layers = _ordered(layers)
        self.chain = self.layers if chain is None else _ordered(chain)
        self.runs_executor = runs_executor
        self._auth = next((one for one in self.chain if isinstance(one, AuthMiddleware)), None)
        self.folds: frozenset[type[Event]] = frozenset().union(
            *(each.folds for each in self.layers)
        )
        # Decisions are written by the stage that made them; the rest where a run ends.
        self.needs = frozenset() if runs_executor else self.folds - {Decision}
        self._folding: dict[type[Event], tuple[AgentMiddleware, ...]] = {
            kind: tuple(layer for layer in self.layers if kind in layer.folds)
            for kind in self.folds
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def reserves_calls(self) -> bool:
        """Whether each model call is reserved by itself: who reserves sees the calls made here."""
        reserving = (one for one in self.chain if AttemptStarted in one.folds)
        return self.runs_executor and all(one in self.layers for one in reserving)

    @property
    def history_ms(self) -> int:
        """How far back from the newest committed decision a restore has to fold."""
        return max((layer.history_ms for layer in self.layers), default=0)

    def decide(
        self, context: MiddlewareContext, *, generation: int, stage: str = "chain"
    ) -> Decision:
        """Ask each enabled layer in order, as stage `stage`; the first rejection wins.

        The decision is folded at once, so that the next one sees it: a lane whose commit of it
        fails must be dropped. A layer that raises rejects the request, as `LayerFailed`.
        """
        passed: list[str] = []
        reserved_micros = 0
        for layer in self.layers:
            if not layer.enabled:
                continue
            answer = asked(layer, MiddlewareResult, partial(layer.admit, context))
            because = answer if isinstance(answer, LayerFailed) else answer.rejection
            if isinstance(answer, LayerFailed) or because is not None:
                decision = _decision(
                    context,
                    (stage, generation),
                    passed,
                    rejected_by=layer.name,
                    because=because,
                )
                break
            passed.append(layer.name)
            reserved_micros = saturated(reserved_micros + answer.reserved_micros)
        else:
            decision = _decision(
                context, (stage, generation), passed, reserved_micros=reserved_micros
            )
        self.fold(decision)
        for layer in self.chain:
            if layer.enabled:
                told(layer, partial(layer.decided, context, decision))
        return decision

    def session_terms(self, tenant: str, user_id: str) -> SessionTerms:
        """Give what the policy says of a user's sessions: the same in each stage of a cut chain."""
        if self._auth is None or not self._auth.enabled:
            return _NO_TERMS
        return self._auth.session_terms(tenant, user_id)

    def forbids(self, context: MiddlewareContext) -> Rejected | None:
        """Say why a run may not be its user's, whatever it costs: asked in each stage alike."""
        if self._auth is None or not self._auth.enabled:
            return None
        answer = asked(self._auth, MiddlewareResult, partial(self._auth.admit, context))
        return answer if isinstance(answer, LayerFailed) else answer.rejection

    def begin(
        self, context: MiddlewareContext, standing: RunAccount, *, attempt: int
    ) -> AttemptStarted | Rejected | None:
        """Ask every layer of the chain about an attempt that is about to begin.

        Gives the mark of an attempt that may cost or have an effect, folded at once as a decision
        is: it is to be committed before the attempt's first call. `None`: it may begin right now.
        One that may follow a lost attempt has a mark in any case: lost ones are counted by theirs.
        """
        quote: AttemptQuote | None = None
        for layer in self.chain:
            if not layer.enabled:
                continue
            answer = asked(layer, _BEGINNINGS, partial(layer.begin, context, standing))
            if isinstance(answer, Rejected):
                return answer
            quote = quote or answer
        if quote is None and not context.has_effects and not standing.may_follow_lost:
            return None
        started = _started(context, standing, attempt, quote or _NOTHING)
        self.fold(started)
        return started

    def reserve(
        self, context: MiddlewareContext, started: AttemptStarted, call: NextCall
    ) -> CallQuote | Rejected | None:
        """Ask every layer about a further model call of an attempt that is under way.

        Gives what the run may cost with it, of the layer that says most; `None`: nothing is
        reserved for calls. Folds nothing.
        """
        quote: CallQuote | None = None
        for layer in self.chain:
            if not layer.enabled:
                continue
            answer = asked(layer, _CALLS, partial(layer.reserve, context, started, call))
            if isinstance(answer, Rejected):
                return answer
            if answer is not None and (
                quote is None or answer.reserved_micros > quote.reserved_micros
            ):
                quote = answer
        return quote

    def charge(self, request: ResolvedRequest | AttemptStarted, used: AttemptUsage) -> list[Event]:
        """Make the events of what an attempt used, and fold them at once."""
        events = self.charges(request, used)
        for event in events:
            self.fold(event)
        return events

    def charges(self, request: ResolvedRequest | AttemptStarted, used: AttemptUsage) -> list[Event]:
        """Make the events of what an attempt used, or part of it, and fold nothing."""
        events: list[Event] = []
        for layer in self.chain:
            if layer.enabled:
                charged = asked(layer, tuple, partial(layer.charge, request, used))
                events.extend(() if isinstance(charged, LayerFailed) else charged)
        return events

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:
        """Take a result back through the chain, last layer first; gather the layers' events."""
        events: list[Event] = []
        for layer in reversed(self.chain):
            if layer.enabled:
                settlement = asked(
                    layer,
                    Settlement,
                    partial(layer.settle, request, result),
                    partial(wrong_settlement, result),
                )
                if isinstance(settlement, LayerFailed):
                    continue
                result = settlement.result
                events.extend(settlement.events)
        return Settlement(result, tuple(events))

    def fold(self, event: Event) -> None:
        """Take a written event into the layers' state, whether they are enabled or not."""
        for layer in self._folding.get(type(event), ()):
            told(layer, partial(layer.fold, event))

    @property
    def states(self) -> LayerStates:
        """What of the layers snapshots hold."""
        return LayerStates(self.layers)

    def canonical(self) -> dict[str, Any]:
        """Give what of each layer's state decides, for digests; see `AgentMiddleware.canonical`."""
        return {layer.name: layer.canonical() for layer in self.layers}

    def split(self, cuts: tuple[str, ...]) -> tuple[MiddlewarePipeline, ...]:
        """Cut the chain before each of the named layers, or before `executor`: gives the stages.

        There is one stage more than there are cuts; the last runs the executor. Raises
        `Misconfigured` for a name that is no layer, comes twice or is out of order, and for a cut
        that would leave nothing before it.
        """
        names = (*self.names, EXECUTOR)
        for cut in cuts:
            if cut not in names:
                raise Misconfigured(
                    f"chain_cuts: there is no layer {cut!r}{nearest(cut, names)} "
                    f"(the chain is {', '.join(names)})"
                )
        at = [names.index(cut) for cut in cuts]
        if at != sorted(set(at)):
            raise Misconfigured(
                f"chain_cuts: write each cut once, in the chain's order: {', '.join(names)}"
            )
        if at and at[0] == 0 and self.layers:
            raise Misconfigured(
                f"chain_cuts: nothing comes before {cuts[0]!r}; cut before a later layer"
            )
        bounds = [0, *at, len(self.layers)]
        return tuple(
            MiddlewarePipeline(
                self.layers[start:end], chain=self.chain, runs_executor=number == len(cuts)
            )
            for number, (start, end) in enumerate(pairwise(bounds))
        )


MakeLayer = Callable[[], AgentMiddleware]
"""Makes a layer, new and without state: each lane has one of its own."""


def default_layers(
    policy: Policy, prices: PriceTable, *, contents_logged: bool = False
) -> tuple[AgentMiddleware, ...]:
    """Give the four layers, new and without state."""
    return (
        AuthMiddleware(policy),
        LoggingMiddleware(contents_logged=contents_logged),
        CostTrackingMiddleware(policy, prices),
        RateLimitMiddleware(policy),
    )


def build_pipeline(
    policy: Policy | None = None,
    prices: PriceTable | None = None,
    *,
    layers: Iterable[MakeLayer] = (),
) -> MiddlewarePipeline:
    """Build one lane's chain. Without a policy everybody may use every template.

    `prices` may be shared by all lanes of a process; none given: a table of the policy's own.
    `layers` make those of an app, which take their places by their priorities. Raises
    `Misconfigured` for two layers of one name.
    """
    policy = Policy() if policy is None else policy
    prices = PriceTable(policy.prices) if prices is None else prices
    own = (make() for make in layers)
    return MiddlewarePipeline((*default_layers(policy, prices), *own))


def _ordered(layers: Iterable[AgentMiddleware]) -> tuple[AgentMiddleware, ...]:
    ordered = tuple(sorted(layers, key=lambda layer: (layer.priority, layer.name)))
    names = [layer.name for layer in ordered]
    for name in names:
        if names.count(name) > 1 or name == EXECUTOR:
            raise Misconfigured(f"the layer name {name!r} is taken; give each layer its own")
    return ordered


_BEGINNINGS: Final = (AttemptQuote, Rejected, type(None))
_CALLS: Final = (CallQuote, Rejected, type(None))

_NO_TERMS: Final = SessionTerms()

_NOTHING = AttemptQuote(Usage(), 0, "")
"""The quote of an attempt that has effects and no price."""


def _started(
    context: MiddlewareContext, standing: RunAccount, attempt: int, quote: AttemptQuote
) -> AttemptStarted:
    request = context.request
    return AttemptStarted(
        tenant=request.tenant,
        user_id=request.user_id,
        at_ms=context.now_ms,
        request_id=request.request_id,
        session_id=request.session_id,
        attempt=attempt,
        model=context.model,
        template=request.template,
        usage_max=quote.usage_max,
        reserved_micros=quote.reserved_micros,
        price_digest=quote.price_digest,
        spent_usage=standing.spent_usage,
        spent_micros=standing.spent_micros,
        lost=standing.lost,
        calls_max=context.model_calls_max if quote.calls is None else quote.calls,
        journals=True,
    )


def _decision(
    context: MiddlewareContext,
    decided_by: tuple[str, int],
    passed: list[str],
    *,
    reserved_micros: int = 0,
    rejected_by: str | None = None,
    because: Rejected | None = None,
) -> Decision:
    request = context.request
    stage, generation = decided_by
    return Decision(
        tenant=request.tenant,
        user_id=request.user_id,
        at_ms=context.now_ms,
        request_id=request.request_id,
        session_id=request.session_id,
        stage=stage,
        admitted=because is None,
        layer=rejected_by,
        reason=None if because is None else reason_of(because),
        passed=tuple(passed),
        template=request.template,
        template_version=context.template_version,
        reserved_micros=reserved_micros,
        request_digest=request.digest,
        generation=generation,
        source=request.source,
    )
