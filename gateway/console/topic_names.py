"""Topics by the names that people write."""

from __future__ import annotations

import difflib

import typer

from millstream.schemas.topics import TopicSpec, catalogue
from millstream.streams.settings import Settings

__all__ = ["topic_named"]


def topic_named(name: str, settings: Settings) -> TopicSpec:
    """Find a topic of the catalogue, with or without its namespace.

    Raises `typer.BadParameter` that lists the names there are.
    """
    specs = {spec.name: spec for spec in catalogue(settings.chain_cuts)}
    found = specs.get(name.removeprefix(f"{settings.namespace}."))
    if found is not None:
        return found
    near = difflib.get_close_matches(name, specs, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    message = f"there is no topic {name!r}: {meant}there are {', '.join(specs)}"
    raise typer.BadParameter(message)
