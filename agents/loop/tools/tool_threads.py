"""Threads for synchronous tools, so many for each template, and what becomes of those that hang.

LangChain runs a tool that is a plain function in the loop's default pool, which all templates
share: eight that block would hold up everybody else's. A thread cannot be stopped. One whose call
is over by its time-out is waited for, and counts as lost after that; its place is free once it
ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import structlog
from langchain_core.callbacks import AsyncCallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool

from millstream.agents.loop.containment import CodeStopped
from millstream.agents.loop.tools.results import shown_result
from millstream.agents.loop.tools.time_limit import within
from millstream.agents.threads import Threads
from millstream.schemas.runs.errors import ToolStuck

__all__ = ["ToolThreads"]

_log = structlog.get_logger(__name__)


class ToolThreads:
    """The threads of one template. `lost` counts those that outlived their calls and still run."""

    def __init__(self, template: str, *, threads_max: int, grace_s: float) -> None:
        self.lost = 0
        self._template = template
        self._grace_s = grace_s
        self._free = asyncio.Semaphore(threads_max)
        self._threads = Threads()

    def threaded(
        self, tool: BaseTool, *, timeout_s: float | None = None, lets_go: bool = False
    ) -> BaseTool:
        """Give a tool that runs here; one that is asynchronous itself runs where it did.

        What it returns is awaited where that is to be, and made text, or refused (`results.py`).
        A call that takes longer than `timeout_s` raises `ToolTimedOut`. `lets_go`: a thread whose
        call is over changes nothing, so it is not waited for.
        """
        if isinstance(tool, StructuredTool | Tool):
            is_async = tool.coroutine is not None
        else:
            is_async = type(tool)._arun is not BaseTool._arun  # noqa: SLF001
        copy = tool.model_copy()
        if is_async:
            made = tool._arun  # noqa: SLF001

            # Wrapped, since LangChain looks at the parameters.
            @wraps(made)
            async def arun_itself(*args: Any, **kwargs: Any) -> Any:
                value = await within(tool.name, timeout_s, made(*args, **kwargs), [True])
                return shown_result(tool, value)

            object.__setattr__(copy, "_arun", arun_itself)
            return copy

        # As LangChain's own, but for where it runs; the parameters are how it knows what to give.
        async def arun(
            *args: Any,
            config: RunnableConfig = None,  # type: ignore[assignment]
            run_manager: AsyncCallbackManagerForToolRun | None = None,
            **kwargs: Any,
        ) -> Any:
            if config is not None:
                kwargs["config"] = config
            if run_manager is not None:
                kwargs["run_manager"] = run_manager.get_sync()
            function = partial(tool._run, *args, **kwargs)  # noqa: SLF001
            begun: list[Any] = []

            async def called() -> Any:
                value = await self.run(tool.name, function, begun=begun, lets_go=lets_go)
                # Of a plain function around an asynchronous one, as a decorator makes it.
                return await value if inspect.isawaitable(value) else value

            return shown_result(tool, await within(tool.name, timeout_s, called(), begun))

        async def ainvoke(given: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
            return await BaseTool.ainvoke(copy, given, config, **kwargs)

        object.__setattr__(copy, "_arun", arun)
        # That of a tool made from a function would run all of the call in the loop's default pool.
        object.__setattr__(copy, "ainvoke", ainvoke)
        return copy

    async def run(
        self,
        name: str,
        function: Callable[[], Any],
        *,
        begun: list[Any] | None = None,
        lets_go: bool = False,
    ) -> Any:
        """Call a function in a thread of its own, once there is a place for it: then `begun` grows.

        If it is cancelled, it waits for the thread, up to the grace; `begun` gets the future of one
        that ends in it. Raises `ToolStuck` where the
        thread goes on after that: then it is lost. With `lets_go` it neither waits nor raises that.
        """
        await self._free.acquire()
        if begun is not None:
            begun.append(name)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        # Looked at, or asyncio logs what a lost thread raised as never retrieved.
        ended.add_done_callback(lambda done: done.cancelled() or done.exception())
        context = contextvars.copy_context()
        end = partial(self._end, ended)
        self._threads.run(f"tool-{name}", partial(_call, context, function, loop, end))
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError as cancelled:
            if not ended.done() and not lets_go:
                await asyncio.wait([ended], timeout=self._grace_s)
            if ended.done():
                if begun is not None:
                    begun.append(ended)
                raise
            self.lost += 1
            ended.add_done_callback(self._found)
            _log.error(
                "a tool's thread is lost",
                template=self._template,
                tool=name,
                grace_s=self._grace_s,
                lost=self.lost,
            )
            if lets_go:
                raise
            raise ToolStuck(f"the tool {name!r} did not end in time and goes on") from cancelled

    def _end(self, ended: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._free.release()
        if ended.done():
            return
        if error is None:
            ended.set_result(value)
        elif isinstance(error, GeneratorExit):
            ended.set_exception(CodeStopped(error))
        elif isinstance(error, StopIteration):
            ended.set_exception(RuntimeError(f"the tool raised {error!r}"))
        else:
            ended.set_exception(error)

    def _found(self, _: asyncio.Future[Any]) -> None:
        self.lost -= 1
        _log.info("a tool's lost thread has ended", template=self._template, lost=self.lost)


def _call(
    context: contextvars.Context,
    function: Callable[[], Any],
    loop: asyncio.AbstractEventLoop,
    end: Callable[[Any, BaseException | None], None],
) -> None:
    value: Any = None
    error: BaseException | None = None
    try:
        value = context.run(function)
    # Whatever it is, it is raised again where the call is awaited.
    except BaseException as raised:  # noqa: BLE001
        error = raised
    # The loop may be closed by now: then nobody waits any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(end, value, error)
