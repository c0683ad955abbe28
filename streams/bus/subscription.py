"""A handler on the bus: takes deliveries from its queue, one at a time."""

from __future__ import annotations

import asyncio
import inspect

import structlog

from millstream.streams.bus.api import BusHooks, Delivery, Handler, HandlerFailed
from millstream.streams.bus.delivery_queue import DeliveryQueue

__all__ = ["HandlerSubscription"]

_STOP_GRACE_S = 5.0
_CALLS_WITHOUT_PAUSE_MAX = 32

_log = structlog.get_logger(__name__)


class HandlerSubscription:
    """Implements `millstream.streams.bus.api.Subscription`."""

    def __init__(self, name: str, handler: Handler, queue: DeliveryQueue, hooks: BusHooks) -> None:
        self.name = name
        self.delivered = 0
        self.failed = 0
        self.queue = queue
        self._handler = handler
        self._hooks = hooks
        self._task: asyncio.Task[None] | None = None

    @property
    def enabled(self) -> bool:
        """Whether the handler is called."""
        return self.queue.enabled

    @property
    def queued(self) -> int:
        """Deliveries that wait for the handler."""
        return len(self.queue)

    def enable(self) -> None:
        """Call the handler again, for the records read from here on."""
        self.queue.enabled = True

    def disable(self) -> None:
        """Stop calling the handler: what waits and what is read until `enable` passes it by."""
        self.queue.enabled = False
        self.queue.clear()

    def start(self) -> None:
        """Begin to call the handler."""
        self._task = asyncio.create_task(self._run(), name=f"bus-subscription-{self.name}")

    async def stop(self) -> None:
        """Call the handler no more; a running call is cancelled after a few seconds."""
        self.queue.close()
        task = self._task
        # A handler may end its own subscription: it cannot wait for itself.
        if task is None or task is asyncio.current_task():
            return
        _, running = await asyncio.wait([task], timeout=_STOP_GRACE_S)
        if running:
            _log.warning("bus.handler_cancelled", subscription=self.name)
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        calls = 0
        while (delivery := await self.queue.delivery()) is not None:
            await self._call(delivery)
            calls += 1
            # Neither a full queue nor a synchronous handler ever waits: let others run.
            if calls % _CALLS_WITHOUT_PAUSE_MAX == 0:
                await asyncio.sleep(0)

    async def _call(self, delivery: Delivery) -> None:
        try:
            outcome = self._handler(delivery)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception as error:  # noqa: BLE001  a handler's failure is its own alone
            self.failed += 1
            _log.exception(
                "bus.handler_failed", subscription=self.name, address=str(delivery.address)
            )
            self._hooks.on_handler_error(HandlerFailed(self.name, delivery, error))
        else:
            self.delivered += 1
