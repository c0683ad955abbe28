"""How long a lane waits for what, and how much of it: no operator sets these, but tests do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LaneLimits"]


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The waits and limits inside of a lane.

    Attributes:
        attempts_lost_max: Attempts of one request that may be lost with their owners: one more is
            not made. What ends its worker, by using up its memory for one, would end one worker
            after the other.
        attempts_lost_together_max: One that lost as many goes on alone: others that were only near
            would be given up with it.
        wait_in_memory_max_s: A run that waits longer than this for its next attempt leaves memory.
        look_for_old_every_s: How often runs are looked for that are to be parked and run on.
        old_in_a_crowd_s: How long a run may hold back records that are not read yet.
        at_hand_behind: Requests that a user may have at hand while reading does not keep up.
            First come those who were not read yet.
        behind_for_s: So long after the last record that others stood behind, reading is taken to
            keep up again.
        look_who_waits_every_s: How often it is asked since when the oldest deferred request waits.
        renewed_after_s: What a waiting run goes on from is written anew once it is so old; `None`:
            half as old as the log lets it become.
        look_who_is_old_every_s: How often such runs are looked for.
        expires_after_opening_s: Sessions expire so long after the lane was opened at the earliest:
            what stood unread then is read first, for it may have come in time.
    """

    attempts_lost_max: int = 10
    attempts_lost_together_max: int = 5
    wait_in_memory_max_s: float = 1.0
    look_for_old_every_s: float = 0.25
    old_in_a_crowd_s: float = 0.25
    at_hand_behind: int = 100
    behind_for_s: float = 0.25
    look_who_waits_every_s: float = 10.0
    renewed_after_s: float | None = None
    look_who_is_old_every_s: float = 600.0
    expires_after_opening_s: float = 3.0
