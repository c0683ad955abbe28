"""A coroutine that is run up to its first wait at once, without a task."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["eager_start"]


def eager_start(coroutine: Coroutine[Any, Any, object]) -> _Begun | None:
    """Run a coroutine up to its first wait; give the rest of it, `None` if that was all.

    Raises what the coroutine raises. It must not ask in which task it runs before it first waits.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return _Begun(coroutine, awaited)


class _Begun:
    """The rest of a coroutine; await it once, in any task."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, object]:
        coroutine, awaited = self._coroutine, self._awaited
        while True:
            thrown: BaseException | None = None
            try:
                sent = yield awaited
            # A task cancels by throwing into what it awaits.
            except BaseException as error:  # noqa: BLE001
                thrown = error
            try:
                awaited = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                return end.value
