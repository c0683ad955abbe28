"""Gathers what a model writes into token records, in order, with bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
from typing import Final

from millstream.agents.sessions.text import ends_in_half, json_pieces, well_formed
from millstream.schemas.errors import LaneLost, Terminal
from millstream.schemas.events import AgentToken, ResolvedRequest
from millstream.schemas.ports import ClockMs, EmitToken

__all__ = ["OUTPUT_BYTES_MAX", "TokenWriter"]

GATHERED_BYTES_MAX: Final = 8_192
"""Text that is gathered before the model has to wait for the emitting of it."""

PIECE_BYTES_MAX: Final = 262_144
"""Longest piece, in bytes of UTF-8 as JSON has it: a control character takes six there."""

OUTPUT_BYTES_MAX: Final = 262_144
"""Longest text of a run, in bytes of UTF-8: its result must fit a Kafka record."""


class TokenWriter:
    """The text of one attempt. The first piece leaves at once, later ones after `coalesce_s`.

    An attempt that follows an earlier one begins with `announce`: an empty piece, which tells a
    subscriber that the earlier text is void before there is new text to show.

    Invariant (P3): `text` is the pieces that were emitted, joined in order of their `seq` (0 to
    `last_seq`, without a gap), and `text_sha256` its hash. A piece counts once `emit` has returned.

    `emit` is never called twice at a time. While it is slow, up to 8 KiB are gathered; then `write`
    waits, and the model with it. What `emit` raises is raised by the `write` or `finish` that meets
    it, and by each one after: the attempt cannot go on without that piece. Text that is too long
    for one piece, as JSON has it, is emitted as several, of which the first has all `tokens`.
    """

    def __init__(
        self,
        request: ResolvedRequest,
        *,
        attempt: int,
        emit: EmitToken,
        coalesce_s: float,
        clock_ms: ClockMs,
    ) -> None:
        self.last_seq = -1
        self.first_token_at_ms: int | None = None
        self._request = request
        self._attempt = attempt
        self._emit = emit
        self._coalesce_s = coalesce_s
        self._clock_ms = clock_ms
        self._emitted: list[str] = []
        self._sha256 = hashlib.sha256()
        self._gathered: list[str] = []
        self._gathered_tokens = 0
        self._gathered_bytes = 0
        self._written_bytes = 0
        self._half = ""
        self._emitting = asyncio.Lock()
        # Of whoever makes the writer: what emits is not the run's code, and holds nothing of it.
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._background: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    @property
    def text(self) -> str:
        """All text that was emitted."""
        return "".join(self._emitted)

    @property
    def text_sha256(self) -> str:
        """SHA-256 of `text` in UTF-8, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def written_bytes(self) -> int:
        """How many bytes of text were written, in UTF-8, emitted or gathered."""
        return self._written_bytes

    @property
    def empty(self) -> bool:
        """Whether no text was written yet, emitted or gathered; an announcement has none."""
        return self._written_bytes == 0

    async def announce(self) -> None:
        """Emit a piece without text, at once; before anything is written. Raises what `emit` did.

        It counts like any other: it is the piece with `seq` 0.
        """
        async with self._emitting:
            await self._emit_piece("", 0)

    async def write(self, text: str, *, tokens: int = 1) -> None:
        """Take some text. Raises what `emit` raised, or `Terminal` for an output without end."""
        if self._half:
            text, self._half = self._half + text, ""
        if ends_in_half(text):
            # Its other half may come with the next piece.
            text, self._half = text[:-1], text[-1]
        if not text:
            return
        size_bytes = _utf8_bytes(text)
        if size_bytes is None:
            text = well_formed(text)
            size_bytes = len(text.encode())
        self._written_bytes += size_bytes
        if self._written_bytes > OUTPUT_BYTES_MAX:
            message = f"the answer is longer than {OUTPUT_BYTES_MAX} bytes"
            raise Terminal(message)
        self._gathered.append(text)
        self._gathered_tokens += tokens
        self._gathered_bytes += size_bytes
        if self.first_token_at_ms is None:
            self.first_token_at_ms = self._clock_ms()
            await self._flush()
        elif self._gathered_bytes >= GATHERED_BYTES_MAX or self._failure is not None:
            await self._flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._coalesce_s, self._flush_later)

    async def finish(self) -> None:
        """Emit what is still gathered. Raises what `emit` raised."""
        if self._half:
            self._half = ""
            await self.write("?", tokens=0)
        await self._flush()

    async def settle(self) -> None:
        """Emit what is still gathered, if it can be, and wait for it, so that `text` is exact.

        For a run that failed: what its model wrote until then is part of its story. Waits for as
        long as `emit` does: while the broker takes no token, it takes no result. Raises `LaneLost`
        if that is what became of a piece; any other outcome changes nothing for a run that has
        failed already.
        """
        self._half = ""
        with contextlib.suppress(Exception):
            await self._flush()
        self._drop_gathered()
        await _ended(self._background, self._sending)
        if isinstance(self._failure, LaneLost):
            raise self._failure

    async def abandon(self) -> None:
        """Emit no more and wait for nothing: for a run that is cancelled, or over."""
        self._drop_gathered()
        for task in (self._background, self._sending):
            if task is not None:
                task.cancel()
        await _ended(self._background, self._sending)
        # A task's context leads back here by way of the run's callbacks: a cycle, which would hold
        # all that the run was made of until the garbage collector comes by.
        self._background = self._sending = None

    def _flush_later(self) -> None:
        self._timer = None
        # While emitting is slow, the one that waits for the lock takes along what comes meanwhile.
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(
                self._flush_in_background(), context=self._context
            )

    async def _flush_in_background(self) -> None:
        # Nobody awaits this task: what `emit` raised is raised by the next `write` or `finish`.
        with contextlib.suppress(Exception):
            await self._flush()

    async def _flush(self) -> None:
        async with self._emitting:
            # Still on its way if the one that sent it was stopped by a time-out meanwhile.
            await _ended(self._sending)
            self._raise_failure()
            self._disarm()
            if not self._gathered:
                return
            text, tokens = "".join(self._gathered), self._gathered_tokens
            self._drop_gathered()
            first, *others = json_pieces(text, PIECE_BYTES_MAX)
            await self._emit_piece(first, tokens)
            for piece in others:
                # Nobody knows which tokens are whose: the first piece has them all.
                await self._emit_piece(piece, 0)

    async def _emit_piece(self, text: str, tokens: int) -> None:
        # A time-out must not cut `emit` short: whether the piece is out would never be known.
        self._sending = asyncio.create_task(self._send(text, tokens), context=self._context)
        await _ended(self._sending)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is None and self._sending is not None and self._sending.cancelled():
            # Not by this writer, which is done once it cancels: whoever emits is shutting down.
            self._failure = LaneLost("the emitting of a token was cancelled")
        if self._failure is not None:
            raise self._failure

    async def _send(self, text: str, tokens: int) -> None:
        seq = self.last_seq + 1
        try:
            await self._emit(
                AgentToken(
                    tenant=self._request.tenant,
                    user_id=self._request.user_id,
                    request_id=self._request.request_id,
                    session_id=self._request.session_id,
                    at_ms=self._clock_ms(),
                    attempt=self._attempt,
                    seq=seq,
                    text=text,
                    tokens=tokens,
                )
            )
        except Exception as error:
            self._failure = error
            raise
        self.last_seq = seq
        self._emitted.append(text)
        self._sha256.update(text.encode())

    def _drop_gathered(self) -> None:
        self._disarm()
        self._gathered.clear()
        self._gathered_tokens = self._gathered_bytes = 0

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _ended(*tasks: asyncio.Task[None] | None) -> None:
    """Wait until these tasks are over; what they raised was kept by the writer."""
    running = {task for task in tasks if task is not None and not task.done()}
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if task is not None and not task.cancelled():
            # Looked at, or asyncio logs it as never retrieved.
            task.exception()


def _utf8_bytes(text: str) -> int | None:
    """Give the size in UTF-8, `None` for text that has none (it holds a lone surrogate)."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None
