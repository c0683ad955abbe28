"""How much of a user's sessions the view keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The view forgets a session `ttl_s` after its last write, and a user's oldest beyond the cap.

    What is forgotten here stands on the log, and comes back with the session's next checkpoint.
    """

    ttl_s: int = 7 * 86_400
    sessions_per_user_max: int = 1000
