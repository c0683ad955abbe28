"""`millstream sessions rebuild`: make the view of sessions anew, from the topics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.sessions.options import JsonOption, sessions_app, store_of
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_json, progress_console
from millstream.schemas.topics import SESSIONS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.settings import Settings

if TYPE_CHECKING:
    from millstream.streams.views.session_rebuild import Progress, Rebuilt

__all__: list[str] = []


@sessions_app.command()
def rebuild(*, as_json: JsonOption = False) -> None:
    """Make the view of sessions in Redis anew, from the topics, beside the one that is in use.

    Readers see the old one until the new one has everything. It may be called again at any time.
    """
    settings = settings_for_client()
    done = run(_rebuild(settings))
    if as_json:
        facts = {"records": done.records, "unreadable": done.unreadable, "users": done.users}
        print_json(facts)
        return
    passed_over = f", {done.unreadable:,} passed over" if done.unreadable else ""
    progress_console().print(
        f"the view has the sessions of {done.users:,} users, of {done.records:,} records"
        f"{passed_over}"
    )


async def _rebuild(settings: Settings) -> Rebuilt:
    from millstream.streams.views.session_rebuild import rebuild_sessions  # noqa: PLC0415  slow to import

    topic = settings.topic(SESSIONS.name)
    # The topics say how many partitions they have, whatever is set here.
    counts = await partition_counts(settings, [topic])
    settings = settings.model_copy(update={"partitions": counts[topic]})
    store, reader = store_of(settings), PartitionReader(settings)
    try:
        await reader.start()
        return await rebuild_sessions(settings, store, reader, tell=_tell)
    finally:
        await reader.stop()
        await store.close()


def _tell(progress: Progress) -> None:
    """Tell how far a topic is read, where a person looks on: each line once it is read."""
    if sys.stderr.isatty() and progress.of:
        share = 100 * progress.done // progress.of
        progress_console().print(
            f"{progress.topic}: {progress.done:,} of {progress.of:,} ({share} %)"
        )
