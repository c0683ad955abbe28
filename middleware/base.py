"""A layer of the chain: a pure question, an answer, and state that is a fold of committed events.

`admit` reads state and never changes it; `fold` changes state and decides nothing. The lane folds
each event that it writes, and after a restart folds the committed ones again: so the state that
decides is the same, live and restored, and a record processed again changes no counter.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from millstream.schemas.base import NO_USAGE, CallUsage, Event, Micros, Usage
from millstream.schemas.errors import Rejected
from millstream.schemas.events import AgentResult, AttemptStarted, Decision, ResolvedRequest
from millstream.schemas.runs.reservations import NextCall
from millstream.schemas.sessions.commands import NO_TTL, SessionTtl


@dataclass(frozen=True, slots=True)
class MiddlewareContext:
    """What a layer may look at.

    `now_ms` is the broker's time of the request, `model` the name of the model the run would use,
    `output_tokens_max` the most it may write. `input_tokens_max` is the most it may read, over all
    of its `model_calls_max` model calls; `None` where nobody knows: it is then taken from the
    input's length alone. `first_call` is the most that the first of them may use, where each
    further one is reserved by itself (`AgentMiddleware.reserve`); `None`: all are at once.
    `has_effects`: it may do what stays done, whatever it costs.
    `models_after` may answer in its model's place, should that one fail. `models_beside` may be
    called as well, by what the template names for its memory and around its calls.
    `models_own` are the template's, which any user of it may name.
    `permissions` are what the template asks of its users.
    `template_version` is the version of the request's template that its run keeps.
    """

    request: ResolvedRequest
    now_ms: int
    model: str
    output_tokens_max: int
    input_tokens_max: int | None = None
    has_effects: bool = False
    model_calls_max: int = 1
    models_after: tuple[str, ...] = ()
    models_beside: tuple[str, ...] = ()
    models_own: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    template_version: str | None = None
    first_call: Usage | None = None


@dataclass(frozen=True, slots=True)
class MiddlewareResult:
    """A layer's answer: go on (perhaps with money reserved), or a rejection with its reason."""

    rejection: Rejected | None = None
    reserved_micros: int = 0


GO_ON = MiddlewareResult()


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the policy says of a user's sessions that neither they nor their template say.

    `create_first`: a request may not begin one. `ttl` is how long they live.
    """

    create_first: bool = False
    ttl: SessionTtl = NO_TTL


@dataclass(frozen=True, slots=True)
class RunAccount:
    """A run's account before one of its attempts begins.

    `reserved_micros` is what its decision reserved, in whichever stage; the `spent` fields are what
    its earlier attempts count at. `lost` of them ended with their owners; `may_follow_lost` says
    that there may be one of which nothing is known.
    """

    reserved_micros: Micros = 0
    spent_micros: Micros = 0
    spent_usage: Usage = NO_USAGE
    lost: int = 0
    may_follow_lost: bool = False


@dataclass(frozen=True, slots=True)
class AttemptQuote:
    """The most that one attempt may use and cost, and the digest of the prices that say so.

    `calls` is for how many of its model calls this is, `None`: for all.
    """

    usage_max: Usage
    reserved_micros: Micros
    price_digest: str
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class CallQuote:
    """What a run may have cost in all once its next model call is over, by prices of this digest.

    `held_micros` is what it has reserved so far; `is_wanted`: much of it may be of use to others of
    its user's runs.
    """

    reserved_micros: Micros
    price_digest: str
    held_micros: Micros = 0
    is_wanted: bool = False


@dataclass(frozen=True, slots=True)
class AttemptUsage:
    """What an attempt that is over used, as far as anybody knows.

    `started` is its committed mark, `None` if it needed none. Where not `usage_known`, it may have
    used more than `usage`, as one that was lost with its owner. `calls` is the usage of each of its
    model calls, in all what `usage` is; none where they are not known.
    """

    attempt: int
    model: str | None
    template: str
    usage: Usage
    usage_known: bool = True
    started: AttemptStarted | None = None
    calls: tuple[CallUsage, ...] = ()

    @classmethod
    def lost(cls, started: AttemptStarted) -> AttemptUsage:
        """Give what is known of an attempt that ended with its lane."""
        return cls(
            attempt=started.attempt,
            model=started.model,
            template=started.template,
            usage=NO_USAGE,
            usage_known=False,
            started=started,
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a layer makes of a run's result: it, perhaps changed, and events to go with it."""

    result: AgentResult
    events: tuple[Event, ...] = ()


class AgentMiddleware(ABC):
    """One layer. Lower `priority` comes first; a layer that is not `enabled` is passed over.

    `folds` names the types of event that `fold` takes in. A layer's `Decision` is one whose
    `passed` names the layer: the decisions topic holds those of every stage of the chain.
    """

    name: ClassVar[str]
    priority: ClassVar[int]
    folds: ClassVar[frozenset[type[Event]]] = frozenset()

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled

    @property
    def history_ms(self) -> int:
        """How far back from the newest decision a restore must fold to decide as before."""
        return 0

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:  # noqa: ARG002
        """Answer for a request. Reads state, changes none."""
        return GO_ON

    def decided(self, context: MiddlewareContext, decision: Decision) -> None:  # noqa: B027
        """Hear what the chain decided, once and live, for reports. Changes no folded state."""

    def begin(
        self,
        context: MiddlewareContext,  # noqa: ARG002
        standing: RunAccount,  # noqa: ARG002
    ) -> AttemptQuote | Rejected | None:
        """Answer for an attempt that is about to begin: what it may cost, `None` if nothing.

        Reads state, changes none; in a cut chain, a layer of another stage has none to read.
        """
        return None

    def reserve(
        self,
        context: MiddlewareContext,  # noqa: ARG002
        started: AttemptStarted,  # noqa: ARG002
        call: NextCall,  # noqa: ARG002
    ) -> CallQuote | Rejected | None:
        """Answer for a model call of an attempt that is under way: what the run may cost with it.

        `None`: nothing is reserved for calls. Asked only where `context.first_call` is there, of
        the agent's own calls and those of its middlewares, but not of models that tools call. Reads
        state, changes none.
        """
        return None

    def charge(
        self,
        request: ResolvedRequest | AttemptStarted,  # noqa: ARG002
        used: AttemptUsage,  # noqa: ARG002
    ) -> tuple[Event, ...]:
        """Make events of what an attempt used. Reads no state that `fold` changes.

        An attempt that was lost may be charged when its request is not at hand: then its mark
        stands for it.
        """
        return ()

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
        """Look at a run's result before it is committed. Reads no state that `fold` changes."""
        return Settlement(result)

    def fold(self, event: Event) -> None:  # noqa: B027
        """Take in an event that this lane writes or has written."""

    @property
    def folded_under(self) -> str:
        """What `fold` goes by besides the events; state folded under another is not loaded.

        Unless `can_load` says that it serves all the same.
        """
        return ""

    def can_load(self, state: Any, folded_under: str) -> bool:  # noqa: ARG002
        """Tell whether state that was folded under another `folded_under` serves as it stands.

        It does if it decides, once it is loaded, as if all had been folded under this one. Asked
        before `load`, through JSON as that; where it does not, the layer folds its history anew.
        """
        return False

    def state(self) -> Any:
        """Give what was folded so far, as values for JSON that share nothing with it.

        A layer that folds and does not give it is restored by folding its history.
        """
        return None

    def canonical(self) -> Any:
        """Give what of the folded state decides, as values for JSON.

        Equal for states that decide alike, in whatever order and from however far back they were
        folded. A layer that can tell no less gives its state.
        """
        return self.state()

    def load(self, state: Any) -> None:  # noqa: B027
        """Take in what `state` gave, through JSON. Nothing was folded before."""
