"""Templates that are applied at run time, for every worker."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from millstream.schemas.base import Event, Identifier, compound_key

__all__ = ["TemplateApplied"]


class TemplateApplied(Event):
    """A version of a template that every worker is to have, or to give to no new run any more.

    Kept compacted by name and version, for ever: a version names one content, and a run that began
    with it may need it long after it is `retired`. `content` is the whole template, but for sizes
    that follow the model (`output_tokens_max`, those of `memory`); `digest` stands for it; `by` is
    who applied or retired it. Of a name the version that was applied last is that of new runs.
    """

    title: ClassVar[str] = "A version of a template for every worker"

    type: Literal["template"] = "template"
    user_id: Identifier = "millstream"
    name: Identifier
    version: Annotated[str, Field(min_length=1, max_length=64)]
    content: dict[str, Any]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    by: Identifier | None = None
    retired: bool = False

    @property
    def event_id(self) -> str:
        """Name, version and when it was applied or retired."""
        return f"{self.name}:{self.version}:{self.at_ms}"

    @property
    def record_key(self) -> str:
        """Name and version."""
        return compound_key(self.name, self.version)
