"""One request's answer as a fold of its token records and its result: clean text, none twice.

Tokens and the result stand on two topics, which have no order between them. All tokens of the
result's attempt were acknowledged before the result was committed, and `output` is their text; so
whatever of it was not read yet when the result comes is taken from there. Its steps, where they are
wanted, stand on a third topic: each says behind how many bytes of the text it belongs.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from millstream.schemas.errors import AnswerAltered, AnswerGone, Misconfigured
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.steps import AgentStep
from millstream.streams.bus.api import Delivery

__all__ = ["Answer", "Ended", "Piece", "Position", "StartedAnew", "Stepped", "Text"]

_POSITION_VERSION: Final = 2
_WITHOUT_STEPS: Final = (-1, 0, 0)
"""What a position of the first version, which knows no steps, has for the last three fields."""

_LEADING_BITS: Final = 0b1100_0000
_CONTINUES_CHARACTER: Final = 0b1000_0000

STEPS_HELD_MAX: Final = 256
"""Steps that wait for the text before them; while there are as many, no more are to be read."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of an answer stands; `str` and `parse` carry it to another process.

    To a program it is opaque. The offsets are those to read next; `text_bytes` and `text_crc32` are
    of the attempt's text so far in UTF-8, by which the result is checked against what was given
    out before. `steps_offset` is -1 for a reader without steps; `next_step` is the seq of the next
    one. `token_bytes` of the next token were given out before a step that stands in its middle.
    """

    partition: int = 0
    tokens_offset: int = 0
    results_offset: int = 0
    attempt: int = -1
    next_seq: int = 0
    text_bytes: int = 0
    text_crc32: int = 0
    ended: bool = False
    steps_offset: int = -1
    next_step: int = 0
    token_bytes: int = 0

    def __str__(self) -> str:
        """Give the position in ASCII, at most some 120 characters."""
        values = [int(getattr(self, name)) for name in self.__slots__]
        if self.steps_offset < 0 and not self.token_bytes:
            # As readers know it that know no steps.
            return ".".join(map(str, (1, *values[: -len(_WITHOUT_STEPS)])))
        return ".".join(map(str, (_POSITION_VERSION, *values)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gave. Raises `Misconfigured` for anything else."""
        try:
            version, *values = (int(word) for word in text.split("."))
            if version == 1:
                values += _WITHOUT_STEPS
            partition, tokens, results, attempt, seq, size, crc32, ended, *more = values
            steps_offset, next_step, token_bytes = more
        except ValueError as error:
            raise Misconfigured(f"not the position of a reader: {text!r}") from error
        if version not in {1, _POSITION_VERSION}:
            raise Misconfigured(f"a reader's position of another version: {text!r}")
        return cls(
            *(partition, tokens, results, attempt, seq, size, crc32),
            ended=bool(ended),
            steps_offset=steps_offset,
            next_step=next_step,
            token_bytes=token_bytes,
        )


@dataclass(frozen=True, slots=True)
class Text:
    """The next text of the answer, never empty."""

    text: str
    position: Position


@dataclass(frozen=True, slots=True)
class StartedAnew:
    """What was given out before is void: attempt `attempt` tells the answer from its beginning."""

    attempt: int
    position: Position


@dataclass(frozen=True, slots=True)
class Stepped:
    """The next step of the attempt; `step.text_bytes` says where in its text it belongs.

    It comes there, unless text behind that place was read, and given out, before it.
    """

    step: AgentStep
    position: Position


@dataclass(frozen=True, slots=True)
class Ended:
    """The request has ended; the text since the last `StartedAnew` is the whole of it."""

    result: AgentResult
    position: Position


Piece = Text | StartedAnew | Stepped | Ended
"""What becomes of an answer. A reader that resumes from a piece's position gives what follows."""


class Answer:
    """Takes the records of one request, in each topic's order, and gives the pieces they make.

    A lower attempt's tokens (a worker that does not know that it was replaced may still write them)
    and tokens that came before are left out. After a gap, as where reading began in the middle, the
    rest of the text comes with the result. The state is `position`, of a fixed size, and with
    `steps` those that came before the text that they follow.

    With `steps`, steps are pieces too; they make an attempt known, and void, as its tokens do. The
    answer ends once all steps that its result counts were taken, or `give_up_steps` was called.
    """

    def __init__(self, position: Position | None = None, *, steps: bool = False) -> None:
        position = position or Position()
        if not steps:
            position = replace(position, steps_offset=-1, next_step=0)
        elif position.steps_offset < 0:
            position = replace(position, steps_offset=0)
        self.position = position
        self.gap = False
        self._result: AgentResult | None = None
        # Whole only if this reader saw the attempt from its beginning.
        self._sha256 = hashlib.sha256() if self.position.text_bytes == 0 else None
        self._wants_steps = steps
        self._held: deque[tuple[int, AgentStep]] = deque()
        self._steps_read_to = position.steps_offset
        self._steps_given_up = False

    @property
    def steps_missing(self) -> int:
        """How many steps of the result's attempt are still to come; 0 before the result."""
        result = self._result
        if result is None or not self._wants_steps or self._steps_given_up:
            return 0
        return max(0, (result.steps or 0) - self._next_step)

    @property
    def may_read_steps(self) -> bool:
        """Whether there is room for a further step."""
        return len(self._held) < STEPS_HELD_MAX

    def take(self, delivery: Delivery) -> tuple[Piece, ...]:
        """Take a record; one that is neither token, step nor result changes nothing.

        Raises `AnswerAltered` if the result's text is not the one that was given out, `AnswerGone`
        if the text stands only in tokens that cannot be read any more.
        """
        offset = delivery.address.offset
        pieces: list[Piece] = []
        match delivery.event:
            case _ if self.position.ended:
                pass
            case AgentToken() as token:
                self.position = replace(self.position, tokens_offset=offset)
                self._take_token(token, pieces)
            case AgentStep() as step if self._wants_steps:
                self._take_step(step, offset, pieces)
            case AgentResult() as result if self._result is None:
                self.position = replace(self.position, results_offset=offset)
                self._result = result
                self._take_result(result, pieces)
        return tuple(pieces)

    def give_up_steps(self) -> tuple[Piece, ...]:
        """Await no more steps: those that are missing cannot be read any more."""
        pieces: list[Piece] = []
        self._steps_given_up = True
        if self._result is not None and not self.position.ended:
            self._finish(self._result, pieces)
        return tuple(pieces)

    @property
    def _next_step(self) -> int:
        return self._held[-1][1].seq + 1 if self._held else self.position.next_step

    def _take_token(self, token: AgentToken, pieces: list[Piece]) -> None:
        superseded = token.attempt < self.position.attempt
        if token.attempt > self.position.attempt and self._result is None:
            # Its position still lies before this record, whose text comes next.
            self._begin(token.attempt, pieces)
        behind = self.position.tokens_offset + 1
        of_attempt = not superseded and token.attempt == self.position.attempt
        if of_attempt and token.seq == self.position.next_seq:
            data = token.text.encode()[self.position.token_bytes :]
            while cut := self._place_of_step(data):
                part, data = data[:cut], data[cut:]
                self._tell(part, pieces, token_bytes=self.position.token_bytes + len(part))
            self._tell(data, pieces, tokens_offset=behind, next_seq=token.seq + 1, token_bytes=0)
        else:
            self.position = replace(self.position, tokens_offset=behind)
            if of_attempt and token.seq > self.position.next_seq:
                self.gap = True
                self._tell_steps(pieces)
        if of_attempt and self._result is not None and self._result.output is None:
            self._finish(self._result, pieces)

    def _take_step(self, step: AgentStep, offset: int, pieces: list[Piece]) -> None:
        if step.attempt > self.position.attempt and self._result is None:
            self._steps_read_to = offset
            self._begin(step.attempt, pieces)
        self._steps_read_to = offset + 1
        if step.attempt == self.position.attempt and step.seq >= self._next_step:
            self._held.append((offset, step))
            self._tell_steps(pieces)
        else:
            self.position = replace(self.position, steps_offset=self._steps_offset)
        if self._result is not None:
            self._finish(self._result, pieces)

    def _take_result(self, result: AgentResult, pieces: list[Piece]) -> None:
        textless = result.output is None and result.last_seq < 0 and self.position.text_bytes > 0
        if result.attempt != self.position.attempt or textless:
            self._begin(result.attempt, pieces)
        if result.output is not None and result.text_sha256 is not None:
            sha256 = hashlib.sha256(result.output.encode()).hexdigest()
            if sha256 != result.text_sha256:
                raise AnswerAltered(f"{result.request_id}: the result's text has another hash")
        self._finish(result, pieces)

    def _finish(self, result: AgentResult, pieces: list[Piece]) -> None:
        """End the answer if all of it is there; the rest of its text waits for the steps in it."""
        if self.steps_missing:
            return
        if result.output is None:
            # A run that was cut off: its text stands in its tokens alone.
            self._end_if_told(result, pieces)
            return
        whole = result.output.encode()
        known = self.position.text_bytes
        if len(whole) < known or zlib.crc32(whole[:known]) != self.position.text_crc32:
            raise AnswerAltered(f"{result.request_id}: the result's text is not its tokens'")
        rest = whole[known:]
        # From here on the text is the result's, which is read again by whoever resumes.
        self.position = replace(self.position, next_seq=result.last_seq + 1, token_bytes=0)
        while cut := self._place_of_step(rest):
            self._tell(rest[:cut], pieces)
            rest = rest[cut:]
        self._tell(rest, pieces)
        self._end(result, pieces)

    def _end_if_told(self, result: AgentResult, pieces: list[Piece]) -> None:
        if self.position.next_seq <= result.last_seq:
            if self.gap:
                raise AnswerGone(
                    f"{result.request_id} was cut off, and its text stands in its tokens alone: "
                    f"token {self.position.next_seq} of attempt {result.attempt} is gone, or "
                    "stands before where reading began"
                )
            return
        sha256 = self._sha256
        if result.text_sha256 and sha256 and sha256.hexdigest() != result.text_sha256:
            raise AnswerAltered(f"{result.request_id}: the tokens' text has another hash")
        self._end(result, pieces)

    def _begin(self, attempt: int, pieces: list[Piece]) -> None:
        shown = self.position.text_bytes > 0 or self.position.next_step > 0
        next_step = self.position.next_step
        if attempt != self.position.attempt:
            self._held.clear()
            next_step = 0
        self.position = replace(
            self.position,
            attempt=attempt,
            next_seq=0,
            text_bytes=0,
            text_crc32=0,
            steps_offset=self._steps_offset,
            next_step=next_step,
            token_bytes=0,
        )
        self.gap = False
        self._sha256 = hashlib.sha256()
        if shown:
            pieces.append(StartedAnew(attempt, self.position))

    def _tell(self, data: bytes, pieces: list[Piece], **moved: Any) -> None:
        """Give out text, then the steps that stand behind it; `moved` is new in its position."""
        self.position = replace(
            self.position,
            text_bytes=self.position.text_bytes + len(data),
            text_crc32=zlib.crc32(data, self.position.text_crc32),
            **moved,
        )
        if self._sha256 is not None:
            self._sha256.update(data)
        if data:
            pieces.append(Text(data.decode(), self.position))
        self._tell_steps(pieces)

    def _tell_steps(self, pieces: list[Piece], *, all_of_them: bool = False) -> None:
        # After a gap no more text comes before the result: there is nothing to wait for.
        told = all_of_them or self.gap
        while self._held and (told or self._held[0][1].text_bytes <= self.position.text_bytes):
            _, step = self._held.popleft()
            self.position = replace(
                self.position, steps_offset=self._steps_offset, next_step=step.seq + 1
            )
            pieces.append(Stepped(step, self.position))

    def _place_of_step(self, data: bytes) -> int:
        """Give where in the text that comes next a step stands that is held, 0 if in none of it."""
        if not self._held:
            return 0
        place = self._held[0][1].text_bytes - self.position.text_bytes
        # Not in the middle of a character, whatever the step says.
        while place < len(data) and data[place] & _LEADING_BITS == _CONTINUES_CHARACTER:
            place += 1
        return place if place < len(data) else 0

    @property
    def _steps_offset(self) -> int:
        return self._held[0][0] if self._held else self._steps_read_to

    def _end(self, result: AgentResult, pieces: list[Piece]) -> None:
        self._tell_steps(pieces, all_of_them=True)
        self.position = replace(self.position, ended=True)
        pieces.append(Ended(result, self.position))
