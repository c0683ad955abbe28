"""What one attempt reserves for its model calls: decided, folded and submitted in one tick."""

from __future__ import annotations

from millstream.middleware.base import CallQuote, MiddlewareContext
from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.schemas.errors import Rejected
from millstream.schemas.events import AttemptStarted
from millstream.schemas.runs.reservations import CallReserved, NextCall
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.wire.trace import Trace

__all__ = ["AttemptReservations"]


class AttemptReservations:
    """Reserves the calls of an attempt behind its first, which its mark `started` has reserved."""

    def __init__(
        self,
        pipeline: MiddlewarePipeline,
        writer: LaneWriter,
        *,
        context: MiddlewareContext,
        started: AttemptStarted,
        traceparent: Trace,
    ) -> None:
        self._pipeline = pipeline
        self._writer = writer
        self._context = context
        self._started = started
        self._traceparent = traceparent
        self._number = 0
        # How many calls were over when the newest was reserved.
        self._over = 0

    async def reserve(self, call: NextCall) -> None:
        """Return once what a call may cost is reserved on the log.

        Raises `BudgetExceeded` where it does not fit, and `LaneLost`.
        """
        quote = self._pipeline.reserve(self._context, self._started, call)
        if isinstance(quote, Rejected):
            raise quote
        if quote is None:
            return
        is_held = quote.reserved_micros <= quote.held_micros and len(call.over) <= self._over
        if is_held and not quote.is_wanted:
            return
        committed = self._writer.submit(
            [self._reserved(call, quote)], self._traceparent, lazy=is_held
        )
        if not is_held:
            await committed

    def ahead(self, call: NextCall) -> tuple[CallReserved, ...]:
        """Give what reserves a call that is likely to follow: submit it in the same tick.

        Nothing where it does not fit: whoever makes the call is told.
        """
        quote = self._pipeline.reserve(self._context, self._started, call)
        if quote is None or isinstance(quote, Rejected):
            return ()
        return (self._reserved(call, quote),)

    def _reserved(self, call: NextCall, quote: CallQuote) -> CallReserved:
        """Give the record of a call, folded at once as a decision is."""
        self._number, self._over = self._number + 1, len(call.over)
        reserved = CallReserved.of(
            self._started,
            call,
            number=self._number,
            micros=quote.reserved_micros,
            digest=quote.price_digest,
        )
        self._pipeline.fold(reserved)
        return reserved
