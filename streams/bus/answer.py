"""One request's answer as a fold of its token records and its result: clean text, none twice.

Tokens and the result stand on two topics, which have no order between them. All tokens of the
result's attempt were acknowledged before the result was committed, and `output` is their text; so
whatever of it was not read yet when the result comes is taken from there.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from typing import Final, Self

from millstream.schemas.errors import AnswerAltered, AnswerGone, Misconfigured
from millstream.schemas.events import AgentResult, AgentToken
from millstream.streams.bus.api import Delivery

__all__ = ["Answer", "Ended", "Piece", "Position", "StartedAnew", "Text"]

_POSITION_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of an answer stands; `str` and `parse` carry it to another process.

    To a program it is opaque. The offsets are those to read next; `text_bytes` and `text_crc32` are
    of the attempt's text so far in UTF-8, by which the result is checked against what was given
    out before.
    """

    partition: int = 0
    tokens_offset: int = 0
    results_offset: int = 0
    attempt: int = -1
    next_seq: int = 0
    text_bytes: int = 0
    text_crc32: int = 0
    ended: bool = False

    def __str__(self) -> str:
        """Give the position in ASCII, at most some 100 characters."""
        fields = (getattr(self, name) for name in self.__slots__)
        return ".".join(str(int(value)) for value in (_POSITION_VERSION, *fields))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gave. Raises `Misconfigured` for anything else."""
        try:
            version, partition, tokens, results, attempt, seq, size, crc32, ended = (
                int(word) for word in text.split(".")
            )
        except ValueError as error:
            raise Misconfigured(f"not the position of a reader: {text!r}") from error
        if version != _POSITION_VERSION:
            raise Misconfigured(f"a reader's position of another version: {text!r}")
        return cls(partition, tokens, results, attempt, seq, size, crc32, bool(ended))


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
class Ended:
    """The request has ended; the text since the last `StartedAnew` is the whole of it."""

    result: AgentResult
    position: Position


Piece = Text | StartedAnew | Ended
"""What becomes of an answer. A reader that resumes from a piece's position gives what follows."""


class Answer:
    """Takes the records of one request, in each topic's order, and gives the pieces they make.

    A lower attempt's tokens (a worker that does not know that it was replaced may still write them)
    and tokens that came before are left out. After a gap, as where reading began in the middle, the
    rest of the text comes with the result. The state is `position`, of a fixed size.
    """

    def __init__(self, position: Position | None = None) -> None:
        self.position = position or Position()
        self.gap = False
        self._result: AgentResult | None = None
        # Whole only if this reader saw the attempt from its beginning.
        self._sha256 = hashlib.sha256() if self.position.text_bytes == 0 else None

    def take(self, delivery: Delivery) -> tuple[Piece, ...]:
        """Take a record; one that is neither token nor result changes nothing.

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
            case AgentResult() as result if self._result is None:
                self.position = replace(self.position, results_offset=offset)
                self._result = result
                self._take_result(result, pieces)
        return tuple(pieces)

    def _take_token(self, token: AgentToken, pieces: list[Piece]) -> None:
        superseded = token.attempt < self.position.attempt
        if token.attempt > self.position.attempt and self._result is None:
            # Its position still lies before this record, whose text comes next.
            self._begin(token.attempt, pieces)
        self.position = replace(self.position, tokens_offset=self.position.tokens_offset + 1)
        if superseded or token.attempt != self.position.attempt:
            return
        if token.seq == self.position.next_seq:
            self._tell(token.text, token.seq + 1, pieces)
        elif token.seq > self.position.next_seq:
            self.gap = True
        if self._result is not None and self._result.output is None:
            self._end_if_told(self._result, pieces)

    def _take_result(self, result: AgentResult, pieces: list[Piece]) -> None:
        textless = result.output is None and result.last_seq < 0
        if result.attempt != self.position.attempt or textless:
            self._begin(result.attempt, pieces)
        if result.output is None:
            # A run that was cut off: its text stands in its tokens alone.
            self._end_if_told(result, pieces)
            return
        whole = result.output.encode()
        if result.text_sha256 not in {None, hashlib.sha256(whole).hexdigest()}:
            raise AnswerAltered(f"{result.request_id}: the result's text has another hash")
        known = self.position.text_bytes
        if len(whole) < known or zlib.crc32(whole[:known]) != self.position.text_crc32:
            raise AnswerAltered(f"{result.request_id}: the result's text is not its tokens'")
        self._tell(whole[known:].decode(), result.last_seq + 1, pieces)
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
        shown = self.position.text_bytes > 0
        self.position = replace(
            self.position, attempt=attempt, next_seq=0, text_bytes=0, text_crc32=0
        )
        self.gap = False
        self._sha256 = hashlib.sha256()
        if shown:
            pieces.append(StartedAnew(attempt, self.position))

    def _tell(self, text: str, next_seq: int, pieces: list[Piece]) -> None:
        data = text.encode()
        self.position = replace(
            self.position,
            next_seq=next_seq,
            text_bytes=self.position.text_bytes + len(data),
            text_crc32=zlib.crc32(data, self.position.text_crc32),
        )
        if self._sha256 is not None:
            self._sha256.update(data)
        if text:
            pieces.append(Text(text, self.position))

    def _end(self, result: AgentResult, pieces: list[Piece]) -> None:
        self.position = replace(self.position, ended=True)
        pieces.append(Ended(result, self.position))
