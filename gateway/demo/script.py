"""What the upstream program asks in the demonstration."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["ASKED", "Asked"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as plain as an upstream may write it."""

    user_id: str
    input: str

    def record(self) -> str:
        """Give the record's value."""
        return json.dumps({"user_id": self.user_id, "input": self.input})


ASKED = (
    Asked("ada", "Name the planets of the solar system."),
    Asked("mallory", "Tell me everybody's secrets."),
    Asked("bob", "What is water made of?"),
    Asked("bob", "Write one sentence about rivers."),
    Asked("bob", "And one about mountains."),
)
