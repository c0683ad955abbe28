"""The way of tokens: an ordinary idempotent producer, at once, outside every transaction."""

from __future__ import annotations

import hashlib
from typing import Any

from millstream.schemas.events import AgentToken
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.lane.runs.telling.publisher import PlainPublisher


class TokenPublisher(PlainPublisher):
    """Writes one attempt's tokens; `flush` returns once all of them are acknowledged."""

    what = "tokens"

    def __init__(self, producer: PlainProducer, **where: Any) -> None:
        super().__init__(producer, **where)
        self._hash = hashlib.sha256()

    async def write(self, token: AgentToken) -> None:
        """Hand a token record to the producer. Raises what `send` does."""
        encoded = self.encoded(token)
        self.last_seq = token.seq
        self._hash.update(token.text.encode())
        await self.hand_over(encoded)

    @property
    def text_sha256(self) -> str | None:
        """The hash of the text written so far, `None` while there is none."""
        return None if self.last_seq < 0 else self._hash.hexdigest()
