"""The chaos model, but that it answers some requests with what grows sixfold in JSON.

`python -m tests.chaos.hostile.server LOG [PACE_S]`, as `tests.chaos.model_server`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.model_server import ModelServer, main

__all__ = ["CHARACTERS", "CONTROL_TEXT", "LONG", "TEMPLATES"]

CHARACTERS = "characters"
"""How the id of a request begins that is answered with control characters."""

LONG = "long_agent"
"""The template whose answers may be as long as that."""

TEMPLATES = ("chat_agent", LONG)

CONTROL_TEXT = "\x01" * 100_000
"""600 kB in JSON, where each is written `\\u0001`."""


class HostileServer(ModelServer):
    """Answers a request whose id says so with all of `CONTROL_TEXT` in one piece."""

    def words(self, asked: Sequence[str]) -> Sequence[str]:
        """Give the pieces of the answer."""
        return (CONTROL_TEXT,) if asked[-1].startswith(CHARACTERS) else super().words(asked)


if __name__ == "__main__":
    main(HostileServer)
