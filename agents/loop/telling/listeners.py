"""Listeners: code of an app that is told of what happens in runs, and can harm none of them.

Each listener has a thread, an event loop and a bounded queue of its own. So a listener that is
slow, hangs, blocks or exits holds up itself and nobody else. (What computes in C without letting go
of the interpreter holds up the process, as anywhere in Python.)
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from time import monotonic
from typing import Final, get_args

import structlog

from millstream.agents.loop.telling.events import CallbackEvent, EventKind
from millstream.schemas.errors import Misconfigured

__all__ = ["Listener", "Listeners", "OnEvent"]

OnEvent = Callable[[CallbackEvent], Awaitable[None] | None]
"""Is told of an event: a function, or a coroutine function."""

CLOSED_WITHIN_S: Final = 2.0

_KINDS: Final = frozenset(get_args(EventKind))

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told, and of what. All that is given must hold; what is left out does not limit.

    Raises `Misconfigured` for an unknown kind, or a queue without room.

    Attributes:
        on_event: Takes an event: a function, or a coroutine function. What it raises is logged.
        name: What the log and the metrics call it; its function's name if it is left out.
        kinds: The kinds of events: `{"tool_start", "tool_end"}`. Name `token` to be told of tokens,
            which are many: without any kind named, all others are told.
        names: Patterns of which one fits the event's `name`, as `search_*`.
        tags: Tags of which the event has at least one.
        queued_max: Events that wait; a further one is dropped, and counted.
    """

    on_event: OnEvent
    name: str = ""
    kinds: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    queued_max: int = 1_000

    def __post_init__(self) -> None:
        """Check it, and take any collection for the one that is kept."""
        for field_name in ("kinds", "names", "tags"):
            if isinstance(given := getattr(self, field_name), str):
                message = f"a listener's `{field_name}` are several: write ({given!r},)"
                raise Misconfigured(message)
        object.__setattr__(self, "kinds", frozenset(self.kinds))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "tags", frozenset(self.tags))
        on_event: object = self.on_event
        if not callable(on_event):
            message = f"a listener's `on_event` is to be a function, not {on_event!r}"
            raise Misconfigured(message)
        if not self.name:
            called = getattr(self.on_event, "__qualname__", type(self.on_event).__name__)
            object.__setattr__(self, "name", called)
        if unknown := self.kinds - _KINDS:
            message = (
                f"listener {self.name!r}: no event is of the kind {', '.join(sorted(unknown))}; "
                f"there are {', '.join(sorted(_KINDS))}"
            )
            raise Misconfigured(message)
        if self.queued_max < 1:
            message = f"listener {self.name!r}: `queued_max` must be at least 1"
            raise Misconfigured(message)

    @property
    def told_kinds(self) -> frozenset[str]:
        """The kinds that it is told of."""
        return self.kinds or _KINDS - {"token"}

    def wants(self, event: CallbackEvent) -> bool:
        """Tell whether it is to be told of an event."""
        if event.kind not in self.told_kinds:
            return False
        name = event.name or ""
        if self.names and not any(fnmatchcase(name, pattern) for pattern in self.names):
            return False
        return not self.tags or not self.tags.isdisjoint(event.tags)


class Listeners:
    """Tells listeners. May be called from any thread, and returns at once.

    Make it where no run is under way: the listeners' threads begin with it. `close` lets them
    finish what waits, for a while; a thread that does not end by then is left behind, and cannot
    keep the process.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._ears = tuple(_Ear(one) for one in listeners)
        self.kinds: frozenset[str] = frozenset().union(
            *(ear.listener.told_kinds for ear in self._ears)
        )
        """What any of them is told of: no other event needs to be made."""

    @property
    def dropped(self) -> dict[str, int]:
        """How many events were dropped since a queue was full, by listener."""
        return {ear.listener.name: ear.dropped for ear in self._ears}

    @property
    def failed(self) -> dict[str, int]:
        """How often each listener failed."""
        return {ear.listener.name: ear.failed for ear in self._ears}

    def tell(self, event: CallbackEvent) -> None:
        """Put an event into the queue of each listener that wants it."""
        for ear in self._ears:
            if ear.listener.wants(event):
                ear.put(event)

    def close(self, within_s: float = CLOSED_WITHIN_S) -> None:
        """Take no more events, and wait for those that wait, for so long in all. It blocks."""
        for ear in self._ears:
            ear.end()
        ends_by_s = monotonic() + within_s
        for ear in self._ears:
            ear.join(max(0.0, ends_by_s - monotonic()))


@dataclass(slots=True, eq=False)
class _Ear:
    """One listener's queue and thread."""

    listener: Listener
    dropped: int = 0
    failed: int = 0
    _queue: deque[CallbackEvent] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_ending: bool = False
    _told_dropped: bool = False
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        name = f"listener-{self.listener.name}"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def put(self, event: CallbackEvent) -> None:
        with self._changed:
            if self._is_ending:
                return
            if len(self._queue) >= self.listener.queued_max:
                self.dropped += 1
                first, self._told_dropped = not self._told_dropped, True
            else:
                first = False
                self._queue.append(event)
                self._changed.notify()
        if first:
            _log.warning(
                "a listener is too slow: what it has no room for is dropped, and counted",
                listener=self.listener.name,
                queued_max=self.listener.queued_max,
            )

    def end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def join(self, within_s: float) -> None:
        self._thread.join(within_s)
        if self._thread.is_alive():
            _log.warning("a listener did not end and is left behind", listener=self.listener.name)

    def _next(self) -> CallbackEvent | None:
        """Wait for an event; `None` once there will be none."""
        with self._changed:
            while not self._queue and not self._is_ending:
                self._changed.wait()
            return self._queue.popleft() if self._queue else None

    def _serve(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            while (event := self._next()) is not None:
                try:
                    self._hear(loop, event)
                # A listener is a guest: whatever it raises, it is told of the next event.
                except BaseException:  # noqa: BLE001
                    self.failed += 1
                    _log.exception(
                        "a listener of callback events failed",
                        listener=self.listener.name,
                        kind=event.kind,
                        request_id=event.request_id,
                    )
        finally:
            with suppress(Exception):
                _close(loop)

    def _hear(self, loop: asyncio.AbstractEventLoop, event: CallbackEvent) -> None:
        heard = self.listener.on_event(event)
        if inspect.isawaitable(heard):
            loop.run_until_complete(_awaited(heard))


async def _awaited(heard: Awaitable[None]) -> None:
    await heard


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=CLOSED_WITHIN_S))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
