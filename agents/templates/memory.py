"""What of a session's earlier turns a model is shown: a strategy, of which a template names one.

Each trims in steps: once there is more than its upper bound it goes down to its lower one at once.
So most turns only add to the prompt, and a provider's prompt cache is hit: a window that moves on
by a turn each time changes the prompt's beginning each time
([0037](docs/decisions/0037-memory-is-trimmed-in-steps.md)).

A size that is not given follows the model that answers (`sizes.py`): `fitted` gives the strategy
with all its sizes.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import override

from millstream.schemas.base import Frozen, Identifier

__all__ = [
    "SIZES",
    "SUMMARY_TOKENS",
    "TOKENS_MAX",
    "LastTurns",
    "Memory",
    "NoMemory",
    "Summary",
    "TokenBudget",
]

TOKENS_MAX: Final = 1024
"""Shown where nothing is known of the model: half of the local model's context of 2,048 tokens."""

SUMMARY_TOKENS: Final = 256
SUMMARY_TOKENS_MAX: Final = 2048
SUMMARY_SHARE: Final = 16
"""A summary that nobody gives a size takes a sixteenth of what is shown, within these bounds."""

SIZES: Final = ("tokens_max", "summary_tokens_max", "read_tokens_max")
"""The fields of strategies that follow the model where they are not given."""

_Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
_Turns = Annotated[int, Field(ge=1, le=1000)]
_Share = Annotated[float, Field(gt=0, le=1)]


class _Strategy(Frozen):
    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str


class _Sized(_Strategy):
    """A strategy that shows up to so many tokens."""

    tokens_max: _Tokens | None = None

    @property
    def tokens(self) -> int:
        """The most tokens that are shown: 1,024 where neither it nor a model says."""
        return TOKENS_MAX if self.tokens_max is None else self.tokens_max

    def fitted(self, tokens: int, read_tokens: int) -> Self:  # noqa: ARG002
        """Give it with this size, where it has none."""
        return (
            self if self.tokens_max is not None else self.model_copy(update={"tokens_max": tokens})
        )


class NoMemory(_Strategy):
    """The model is shown no earlier turn."""

    strategy: Literal["none"] = "none"

    def fitted(self, tokens: int, read_tokens: int) -> Self:  # noqa: ARG002
        """Give it as it is: it has no sizes."""
        return self


class LastTurns(_Sized):
    """The model is shown the last turns.

    Attributes:
        turns_max: Once there are more earlier turns than this, all but the newest `turns_keep` are
            left out.
        turns_keep: Half of `turns_max`, unless it is given.
        tokens_max: They take no more than about so many tokens. Once they take more, they are
            trimmed to the same share of it as `turns_keep` is of `turns_max`.
    """

    strategy: Literal["last_turns"] = "last_turns"
    turns_max: _Turns = 20
    turns_keep: _Turns | None = None

    @model_validator(mode="after")
    def _keeps_no_more_than_it_has(self) -> Self:
        if self.turns_keep is not None and self.turns_keep > self.turns_max:
            message = f"`turns_keep` ({self.turns_keep}) is more than `turns_max`: keep no more"
            raise ValueError(message)
        return self

    @property
    def turns_kept(self) -> int:
        """How many turns a trim leaves."""
        return self.turns_keep or (self.turns_max + 1) // 2


class TokenBudget(_Sized):
    """The model is shown as many of the newest turns as fit into a number of tokens.

    Attributes:
        tokens_max: Once the earlier turns take more than about so many tokens, the oldest are left
            out. A message counts 16 tokens besides its text.
        keep_share: What a trim leaves takes at most this share of `tokens_max`.
    """

    strategy: Literal["token_budget"] = "token_budget"
    keep_share: _Share = 0.5


class Summary(_Sized):
    """The model is shown the newest turns, and a summary of what came before them.

    A model writes the summary, in a call that is asked, counted and charged as any other of the
    run, before the run's own first. Where that call fails, the older turns are left out.

    Attributes:
        tokens_max: Once the earlier turns take more than about so many tokens, the older ones are
            summarised. A message counts 16 tokens besides its text.
        keep_share: What is kept as it was said takes at most this share of `tokens_max`.
        summary_tokens_max: The longest summary.
        read_tokens_max: How much of what is left out the summary is made of, the newest of it.
        model: Which model writes it; `None` is the one that answers.
    """

    strategy: Literal["summary"] = "summary"
    keep_share: _Share = 0.5
    summary_tokens_max: Annotated[int, Field(ge=16, le=32_768)] | None = None
    read_tokens_max: _Tokens | None = None
    model: Identifier | None = None

    @model_validator(mode="after")
    def _has_room_for_its_summary(self) -> Self:
        room = int((self.tokens_max or 0) * (1 - self.keep_share))
        if self.tokens_max is None and self.keep_share < 1:
            return self  # it is given room
        if (summary := self.summary_tokens_max or SUMMARY_TOKENS) > room:
            message = (
                f"`summary_tokens_max` ({summary}) is more than the {room} tokens "
                "that `tokens_max` has besides what is kept: lower it or `keep_share`"
            )
            raise ValueError(message)
        return self

    @property
    def summary_tokens(self) -> int:
        """The longest summary: 256 tokens where neither it nor a model says."""
        return SUMMARY_TOKENS if self.summary_tokens_max is None else self.summary_tokens_max

    @property
    def read_tokens(self) -> int:
        """How much a summary is made of: 1,024 tokens where neither it nor a model says."""
        return TOKENS_MAX if self.read_tokens_max is None else self.read_tokens_max

    @override
    def fitted(self, tokens: int, read_tokens: int) -> Self:
        """Give it with all its sizes: one that is given has the room that it needs."""
        given, left = self.summary_tokens_max, 1 - self.keep_share
        if self.tokens_max is not None:
            tokens = self.tokens_max
        elif given is not None and int(tokens * left) < given:
            tokens = ceil(given / left) + 1
        if given is None:
            fits = min(max(SUMMARY_TOKENS, tokens // SUMMARY_SHARE), SUMMARY_TOKENS_MAX)
            given = max(1, min(fits, int(tokens * left)))
        read = read_tokens if self.read_tokens_max is None else self.read_tokens_max
        sizes = {"tokens_max": tokens, "summary_tokens_max": given, "read_tokens_max": read}
        is_whole = all(getattr(self, name) == size for name, size in sizes.items())
        return self if is_whole else self.model_copy(update=sizes)


Memory = Annotated[NoMemory | LastTurns | TokenBudget | Summary, Field(discriminator="strategy")]
