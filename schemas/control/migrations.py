"""Moves of waiting runs to another version of their template: what is asked, and what became of it.

On topics of their own: a reader of `control` takes each of its records for a command that it knows.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from millstream.schemas.base import Address, Event, Identifier, Reason

__all__ = ["RunMigration", "RunMigrationAnswered"]

_Version = Annotated[str, Field(min_length=1, max_length=64)]


class RunMigration(Event):
    """What an operator asks of a run that waits: to go on with another version of its template.

    `from_version` is the version that it has to be at now, left out: whichever it is. With
    `dry_run` it is decided and answered, and nothing changes.
    """

    title: ClassVar[str] = "A waiting run is to go on with another version of its template"

    type: Literal["run_migration"] = "run_migration"
    request_id: Identifier
    to_version: _Version
    from_version: _Version | None = None
    dry_run: bool = False

    @property
    def event_id(self) -> str:
        """The request, the version, and when it was asked for."""
        return f"{self.request_id}:{self.to_version}:{self.at_ms}"


class RunMigrationAnswered(Event):
    """What became of a run that was to be moved, committed with the move itself.

    `source` is where the command's record first stood. `moved`: the run goes on with `to_version`;
    of a `dry_run`: it would. `refused` says why it was not moved: then it is as it was.
    `from_version` is the version that it was at, left out where it has none.
    """

    title: ClassVar[str] = "What became of a run that was to be moved to another version"

    type: Literal["run_migration_answered"] = "run_migration_answered"
    request_id: Identifier
    session_id: Identifier | None = None
    template: Identifier | None = None
    from_version: str | None = None
    to_version: str
    dry_run: bool = False
    moved: bool = False
    refused: Reason | None = None
    source: Address

    @property
    def told(self) -> str:
        """What became of a run that was not refused, in words."""
        was = "" if self.from_version is None else f", no longer {self.from_version}"
        return f"{'could go' if self.dry_run else 'goes'} on with version {self.to_version}{was}"

    @property
    def event_id(self) -> str:
        """Where the command first stood."""
        return f"{self.source}:answered"
