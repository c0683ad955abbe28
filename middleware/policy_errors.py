"""A mistake in a policy or another YAML file: the line, the field, and what to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from millstream.middleware.yaml_tree import Path, YamlTree
from millstream.schemas.base import words_of_problem

_FAULT = "policy_fault"

Fault = tuple[Path, str]
"""Where a mistake is, and what is to be said of it."""

SHOWN_CHARS_MAX: Final = 200
"""How much of what was written is shown with a mistake."""

NO_USER: Final = (
    "is no user: write `user`, or `tenant/user` with a tenant of letters, digits, dots, "
    "underscores and hyphens (a user id with a slash: `default/a/b`)"
)
NO_ROLE: Final = (
    "has no role, and there are no default ones: the user could do nothing. Give `roles` here or "
    "under `defaults` (`roles: []` if nothing is what you mean)"
)


def fault(path: Path, words: str) -> PydanticCustomError:
    """Make the error a validator raises: `words` about the field at `path` below the validated."""
    return PydanticCustomError(_FAULT, "{words}", {"words": words, "path": path})


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Give `; did you mean 'x'?`, or the known names, or nothing where there are none."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; none is defined"


def explain(
    error: ValidationError,
    name: str,
    tree: YamlTree,
    top: type[BaseModel],
    among: Iterable[Fault] = (),
) -> list[str]:
    """Give every mistake in words, each led by file, line and field.

    What is wrong between parts comes from `among`: `error` has the first of it only.
    """
    told = [
        (detail["loc"] + tuple(detail.get("ctx", {}).get("path", ())), detail)
        for detail in error.errors()
        if detail["loc"] or detail["type"] != _FAULT or not among
    ]
    return [
        *(_sentence(path, _words(detail, path, top), name, tree) for path, detail in told),
        *(_sentence(path, words, name, tree) for path, words in among),
    ]


def _sentence(path: Path, words: str, name: str, tree: YamlTree) -> str:
    written = _as_written(path, tree.value)
    line = tree.line_of(written)
    where = f"{name}: line {line}: " if line else f"{name}: "
    field = ".".join(str(part) for part in written)
    return f"{where}{field}: {words}" if field else where + words


def _words(  # noqa: PLR0911  one return per kind of mistake
    detail: ErrorDetails, path: Path, top: type[BaseModel]
) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key{nearest(str(path[-1]), _fields_at(top, path[:-1]))}"
        case "missing":
            return "is missing; add it"
        case "policy_fault":
            return detail["msg"]
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            keys = ", ".join(_fields_at(top, path)) or "a name each"
            return f"must be a mapping ({keys}), it is {_shown(detail['input'])}"
        case "string_type" if isinstance(detail["input"], int | float):
            return f'must be text; put it in quotes: "{detail["input"]}"'
        case "value_error":
            return words_of_problem(detail)
        case "tuple_type":
            return f"must be a list, as in [{detail['input']!r}]"
        case _:
            return f"{detail['msg']} (it is {_shown(detail['input'])})"


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= SHOWN_CHARS_MAX else f"{words[:SHOWN_CHARS_MAX]}…"


def _as_written(path: Path, value: Any) -> Path:
    """Give the path in the file: pydantic names the member of a union in it as well."""
    written: list[str | int] = []
    for place, part in enumerate(path):
        if isinstance(value, dict) and part not in value and place + 1 < len(path):
            continue
        written.append(part)
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    return tuple(written)


def _fields_at(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Give the keys that the model at `path` below `model` has."""
    at: Any = model
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel):
            if part not in at.model_fields:
                return ()
            at = at.model_fields[str(part)].annotation
        elif typing.get_origin(at) in {Mapping, dict}:
            at = typing.get_args(at)[1]
        elif typing.get_origin(at) is tuple and isinstance(part, int):
            at = typing.get_args(at)[0]
        elif (members := _members(at)) and isinstance(part, str):
            at = next((one for one in members if _is_tagged(one, part)), None)
        at = _without_none(at)
    if isinstance(at, type) and issubclass(at, BaseModel):
        return tuple(at.model_fields)
    return ()


def _members(annotation: Any) -> list[Any]:
    """Give the models of a union, whatever it is annotated with."""
    annotation = _bare(annotation)
    if typing.get_origin(annotation) not in {typing.Union, types.UnionType}:
        return []
    return [_bare(one) for one in typing.get_args(annotation)]


def _bare(annotation: Any) -> Any:
    is_annotated = typing.get_origin(annotation) is typing.Annotated
    return typing.get_args(annotation)[0] if is_annotated else annotation


def _is_tagged(member: Any, tag: str) -> bool:
    is_model = isinstance(member, type) and issubclass(member, BaseModel)
    return is_model and any(one.default == tag for one in member.model_fields.values())


def _without_none(annotation: Any) -> Any:
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    is_optional = type(None) in typing.get_args(annotation)
    return members[0] if is_optional and len(members) == 1 else annotation
