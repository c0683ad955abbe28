"""What becomes of a layer that raises, or answers with what no record holds.

The request that it was asked about is turned away, and no more.

A layer may be an app's own code. What it raises must neither end the lane, which serves other
users, nor let a request pass that nobody judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from millstream.middleware.base import AgentMiddleware, CallQuote, MiddlewareResult, Settlement
from millstream.schemas.base import Event
from millstream.schemas.errors import LayerFailed, Rejected
from millstream.schemas.events import AgentResult
from millstream.schemas.reasons import reason_of, words_of

__all__ = ["asked", "told", "wrong_inside", "wrong_settlement"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)


def asked(
    layer: AgentMiddleware,
    answers: type[T] | tuple[type[T], ...],
    answer: Callable[[], T],
    wrong: Callable[[T], str | None] | None = None,
) -> T | LayerFailed:
    """Give what a layer answers, or `LayerFailed` where it raises or answers with something else.

    `wrong` says what of an answer no record could hold; without it, `wrong_inside` does.
    Also for `SystemExit` and a `CancelledError` of its own; only Ctrl-C passes.
    """
    try:
        given = answer()
        what = None
        if isinstance(given, answers):
            what = wrong_inside(given) if wrong is None else wrong(given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  an app's code may raise anything
        words = f"{type(error).__name__}: {words_of(error)}".removesuffix(": ")
        return _failed(layer, f"failed: {words}", error)
    if what is not None:
        return _failed(layer, what)
    if isinstance(given, answers):
        return given
    wanted = answers if isinstance(answers, type) else answers[0]
    return _failed(layer, f"gave {type(given).__name__}, not {wanted.__name__}")


def wrong_inside(answer: object) -> str | None:
    """Say what is wrong inside of a layer's answer of the right type; `None`: nothing is."""
    match answer:
        case MiddlewareResult(rejection=None, reserved_micros=micros):
            return None if type(micros) is int else f"reserved {micros!r}, not micros, an int"
        case CallQuote(reserved_micros=micros) if type(micros) is not int:
            return f"reserved {micros!r}, not micros, an int"
        case MiddlewareResult(rejection=because):
            return _wrong_rejection(because)
        case Rejected():
            return _wrong_rejection(answer)
        case tuple():
            return _wrong_events(answer)
    return None


def wrong_settlement(before: AgentResult, settlement: Settlement) -> str | None:
    """Say what of a settlement no record could hold; `before` is the result that it is made of."""
    result: object = settlement.result
    if result is not before:
        if not isinstance(result, AgentResult):
            return f"settled with {type(result).__name__}, not AgentResult"
        if _identity(result) != _identity(before):
            return "settled with the result of another request"
        try:
            AgentResult.model_validate_json(result.model_dump_json(warnings=False))
        except ValueError as error:
            return f"settled with a result that no record can hold: {words_of(error)}"
    return _wrong_events(settlement.events)


def _identity(result: AgentResult) -> tuple[str, str, str]:
    return result.tenant, result.user_id, result.request_id


def _wrong_rejection(because: object) -> str | None:
    if not isinstance(because, Rejected):
        return f'rejected with {type(because).__name__}, not with a Rejected, as Forbidden("why")'
    try:
        reason_of(because).model_dump_json()
    except ValueError as error:
        return f"rejected with a reason that no record can hold: {words_of(error)}"
    return None


def _wrong_events(events: object) -> str | None:
    if not isinstance(events, tuple) or not all(isinstance(one, Event) for one in events):
        return "gave events of which some are none"
    # A request has one: that which is settled.
    return "gave a second result" if any(isinstance(e, AgentResult) for e in events) else None


def told(layer: AgentMiddleware, tell: Callable[[], object]) -> None:
    """Tell a layer something; what it raises is logged."""
    asked(layer, object, tell, lambda _: None)


def _failed(layer: AgentMiddleware, how: str, error: BaseException | None = None) -> LayerFailed:
    _log.error("a layer failed", layer=layer.name, how=how, exc_info=error)
    return LayerFailed(f"the layer {layer.name!r} {how}")
