"""What of a session's earlier turns a model is shown: a strategy, of which a template names one.

Each trims in steps: once there is more than its upper bound it goes down to its lower one at once.
So most turns only add to the prompt, and a provider's prompt cache is hit: a window that moves on
by a turn each time changes the prompt's beginning each time
([0037](docs/decisions/0037-memory-is-trimmed-in-steps.md)).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from millstream.schemas.base import Frozen, Identifier

__all__ = ["LastTurns", "Memory", "NoMemory", "Summary", "TokenBudget"]

# Half of the local model's context of 2,048 tokens: the rest is for the question and answer.
TOKENS_MAX: Final = 1024

_Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
_Turns = Annotated[int, Field(ge=1, le=1000)]
_Share = Annotated[float, Field(gt=0, le=1)]


class _Strategy(Frozen):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoMemory(_Strategy):
    """The model is shown no earlier turn."""

    strategy: Literal["none"] = "none"


class LastTurns(_Strategy):
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
    tokens_max: _Tokens = TOKENS_MAX

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


class TokenBudget(_Strategy):
    """The model is shown as many of the newest turns as fit into a number of tokens.

    Attributes:
        tokens_max: Once the earlier turns take more than about so many tokens, the oldest are left
            out. A message counts 16 tokens besides its text.
        keep_share: What a trim leaves takes at most this share of `tokens_max`.
    """

    strategy: Literal["token_budget"] = "token_budget"
    tokens_max: _Tokens = TOKENS_MAX
    keep_share: _Share = 0.5


class Summary(_Strategy):
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
    tokens_max: _Tokens = TOKENS_MAX
    keep_share: _Share = 0.5
    summary_tokens_max: Annotated[int, Field(ge=16, le=32_768)] = 256
    read_tokens_max: _Tokens = TOKENS_MAX
    model: Identifier | None = None

    @model_validator(mode="after")
    def _has_room_for_its_summary(self) -> Self:
        room = int(self.tokens_max * (1 - self.keep_share))
        if self.summary_tokens_max > room:
            message = (
                f"`summary_tokens_max` ({self.summary_tokens_max}) is more than the {room} tokens "
                "that `tokens_max` has besides what is kept: lower it or `keep_share`"
            )
            raise ValueError(message)
        return self


Memory = Annotated[NoMemory | LastTurns | TokenBudget | Summary, Field(discriminator="strategy")]
