"""What becomes of a layer that raises: the request that it was asked about is turned away, no more.

A layer may be an app's own code. What it raises must neither end the lane, which serves other
users, nor let a request pass that nobody judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from millstream.middleware.base import AgentMiddleware
from millstream.schemas.errors import LayerFailed
from millstream.schemas.reasons import words_of

__all__ = ["asked", "told"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)


def asked(
    layer: AgentMiddleware, answers: type[T] | tuple[type[T], ...], answer: Callable[[], T]
) -> T | LayerFailed:
    """Give what a layer answers, or `LayerFailed` where it raises or answers with something else.

    Also for `SystemExit` and a `CancelledError` of its own; only Ctrl-C passes.
    """
    try:
        given = answer()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  an app's code may raise anything
        words = f"{type(error).__name__}: {words_of(error)}".removesuffix(": ")
        return _failed(layer, f"failed: {words}", error)
    if isinstance(given, answers):
        return given
    wanted = answers if isinstance(answers, type) else answers[0]
    return _failed(layer, f"gave {type(given).__name__}, not {wanted.__name__}")


def told(layer: AgentMiddleware, tell: Callable[[], object]) -> None:
    """Tell a layer something; what it raises is logged."""
    asked(layer, object, tell)


def _failed(layer: AgentMiddleware, how: str, error: BaseException | None = None) -> LayerFailed:
    _log.error("a layer failed", layer=layer.name, how=how, exc_info=error)
    return LayerFailed(f"the layer {layer.name!r} {how}")
