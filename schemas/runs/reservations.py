"""What a run reserves of its user's money before a further model call, and what asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from millstream.schemas.base import NO_USAGE, TRIES_MAX, CallUsage, Count, Micros, Tries, Usage
from millstream.schemas.events import AttemptStarted, RequestEvent

__all__ = ["CallReserved", "NextCall"]


class CallReserved(RequestEvent):
    """What a run may have cost once its next model call is over, committed before that call.

    The first call of an attempt is reserved by its `AttemptStarted`. (`attempt`, `call`) name this
    record and order it: the greatest of a run is the one that holds, in whichever order they are
    read. `call` counts an attempt's records from 1.

    `reserved_micros` is for the whole run: what all of its calls have cost so far, and the most
    that the next one may. `usage_max` is the most that this one may use, of `model`; `used` is what
    the attempt's calls before it used, of which there were `calls`. `price_digest` names the
    prices. `at_ms` is the broker's time of the request.
    """

    title: ClassVar[str] = "A run reserved what its next model call may cost"

    type: Literal["reservation"] = "reservation"
    attempt: Count
    call: Annotated[Count, Field(ge=1)]
    model: str
    usage_max: Usage
    used: Usage = Usage()
    calls: Tries = 0
    reserved_micros: Micros
    price_digest: str

    @classmethod
    def of(
        cls, started: AttemptStarted, call: NextCall, *, number: int, micros: Micros, digest: str
    ) -> Self:
        """Give the record of a call of an attempt, with the run's sum and the prices' digest."""
        return cls(
            tenant=started.tenant,
            user_id=started.user_id,
            at_ms=started.at_ms,
            request_id=started.request_id,
            session_id=started.session_id,
            attempt=started.attempt,
            call=number,
            model=call.model or started.model,
            usage_max=sum((one.usage for one in call.beside), call.usage_max),
            used=sum((one.usage for one in call.over), NO_USAGE),
            calls=min(sum(one.calls for one in call.over), TRIES_MAX),
            reserved_micros=micros,
            price_digest=digest,
        )

    @property
    def event_id(self) -> str:
        """Request, attempt and number."""
        return f"{self.request_id}:{self.attempt}:reservation:{self.call}"


@dataclass(frozen=True, slots=True)
class NextCall:
    """A model call that a run is about to make, as far as it decides what is to be reserved.

    Attributes:
        usage_max: The most that it may use.
        model: Its model's name, `None`: the one that the attempt is answered by.
        beside: Other calls that are under way, at the most that each may use.
        over: What the attempt's calls used that are over.
    """

    usage_max: Usage
    model: str | None = None
    beside: tuple[CallUsage, ...] = ()
    over: tuple[CallUsage, ...] = ()
