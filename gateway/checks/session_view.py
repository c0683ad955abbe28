"""The view of sessions: whether it has what its topics have, as it says of itself."""

from __future__ import annotations

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import settings_for_client
from millstream.schemas.errors import MillstreamError
from millstream.streams.views.session_stands import ViewCompared, compare_session_view

__all__ = ["check_session_view", "session_view_found"]


async def check_session_view() -> tuple[Finding, ...]:
    """Whether the view has all sessions, and none of another log."""
    try:
        return session_view_found(await compare_session_view(settings_for_client()))
    except MillstreamError:
        return ()  # told by the checks of Kafka and of Redis


def session_view_found(view: ViewCompared) -> tuple[Finding, ...]:
    """Give what is to be said of a view that was compared with its topics."""
    if beyond := view.beyond():
        told = (
            f"it is of another log: it has more of {', '.join(beyond)} than there is, so that it "
            "may show sessions that are no more"
        )
        return (Finding("session view", "wrong", told, "run `millstream sessions rebuild`"),)
    if (lacks := view.lacks()) is not None:
        remedy = "wait; if it stays so, see that a worker with the role `views` runs and is ready"
        return (Finding("session view", "note", lacks, remedy),)
    return (Finding("session view", "ok", "has what the log has"),)
