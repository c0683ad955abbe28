"""Why a run that waits is not moved to another version of its template; it stays as it was."""

from __future__ import annotations

from millstream.schemas.errors import Rejected

__all__ = [
    "JournalUnfit",
    "MigrationRefused",
    "MigrationTooLarge",
    "RunEnded",
    "RunUnderWay",
    "RunUnknown",
    "VersionOther",
    "VersionSame",
    "VersionUnknown",
]


class MigrationRefused(Rejected):
    """The run is not moved; the message says what to do."""

    code = "migration_refused"


class RunUnknown(MigrationRefused):
    """No run of that user and id waits at its partition."""

    code = "run_unknown"


class RunEnded(MigrationRefused):
    """The run has its result, or is about to."""

    code = "run_ended"


class RunUnderWay(MigrationRefused):
    """The run is in its worker's memory: it runs, or is about to."""

    code = "run_under_way"


class VersionUnknown(MigrationRefused):
    """No worker that was asked has that version of the template."""

    code = "version_unknown"


class VersionSame(MigrationRefused):
    """The run is at that version already."""

    code = "version_same"


class VersionOther(MigrationRefused):
    """The run is not at the version that it was to be moved from, or has none yet."""

    code = "version_other"


class JournalUnfit(MigrationRefused):
    """What the run has done so far does not fit the version that it is to go on with."""

    code = "journal_unfit"


class MigrationTooLarge(MigrationRefused):
    """The move does not fit into a record."""

    code = "migration_too_large"
