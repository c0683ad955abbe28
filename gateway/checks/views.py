"""The views: whether they have what their topics have, that of sessions included."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import settings_for_client
from millstream.schemas.errors import MillstreamError
from millstream.schemas.ports import wall_clock_ms
from millstream.streams.views.group_lag import GroupLag, group_lags
from millstream.streams.views.lag import BEHIND_S
from millstream.streams.views.session_stands import ViewCompared, compare_session_view

__all__ = ["check_session_view", "check_views", "session_view_found", "views_found"]


async def check_views() -> tuple[Finding, ...]:
    """Whether the views are seconds behind their topics, and so the metrics of topics."""
    try:
        return views_found(await group_lags(settings_for_client()), now_ms=wall_clock_ms())
    except MillstreamError:
        return ()  # told by the check of Kafka


def views_found(lags: Mapping[str, GroupLag] | None, *, now_ms: int) -> tuple[Finding, ...]:
    """Give what is to be said of what the views have yet to count, by topic."""
    if lags is None:
        told = "nothing was ever counted: metrics of topics are empty"
        return (Finding("views", "note", told, _NO_VIEWS_REMEDY),)
    behind = {
        topic: since_s
        for topic, lag in lags.items()
        if (since_s := (now_ms - lag.oldest_ms) / 1000) > BEHIND_S
    }
    if not behind:
        return (Finding("views", "ok", "have counted what their topics have"),)
    named = ", ".join(
        f"{topic} by {lags[topic].records} records, the first of them {since_s:.0f} s old"
        for topic, since_s in behind.items()
    )
    return (Finding("views", "note", f"metrics of topics are behind: {named}", _BEHIND_REMEDY),)


_NO_VIEWS_REMEDY = "start a worker with the role `views`: each has it unless `--role` says other"

_BEHIND_REMEDY = (
    "wait, if `millstream_view_lag_records` falls; if it does not, give the views a worker of "
    "their own (`millstream worker --role views`, the others with `--role lanes`)"
)


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
