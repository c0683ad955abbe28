"""YAML as a person means it: every key a string, no key twice, and the line of each value known.

Plain YAML lets the last of two equal keys win and reads the key `no` as false; in a file that says
who may do what, both would be holes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from millstream.schemas.errors import Misconfigured

Path = tuple[str | int, ...]

_DEPTH_MAX = 16
_TEXT_CHARACTERS_MAX = 8_000_000


@dataclass(slots=True)
class YamlTree:
    """A document: its plain `value`, and the line (from 1) at which each path's value begins."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int | None:
        """Give the line of the value at `path`, or of the nearest value that encloses it."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return line
        return None


def read_yaml(text: str, name: str, faults: list[str] | None = None) -> YamlTree:
    """Read one document, which errors call `name`; an empty one is an empty mapping.

    Raises `Misconfigured` with each line: what is not YAML, a key given twice, an alias, nesting
    deeper than 16. With `faults`, those that leave the rest to be read are added to them instead.
    """
    told: list[str] = [] if faults is None else faults
    if len(text) > _TEXT_CHARACTERS_MAX:
        raise Misconfigured(f"{name}: longer than {_TEXT_CHARACTERS_MAX:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        tree = YamlTree({})
        if node is not None:
            tree.value = _plain(
                loader, node, (), told=told, lines=tree.lines, name=name, seen=set()
            )
    except RecursionError as error:
        raise Misconfigured(f"{name}: nested deeper than {_DEPTH_MAX} levels") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        hint = "; put a text that begins with * in quotes" if "alias" in str(error.context) else ""
        raise Misconfigured(f"{name}: {where}not YAML: {error.problem}{hint}") from error
    except yaml.YAMLError as error:
        raise Misconfigured("\n".join([*told, f"{name}: not YAML: {error}"])) from error
    if told and faults is None:
        raise Misconfigured("\n".join(told))
    return tree


def _plain(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: Path,
    *,
    told: list[str],
    lines: dict[Path, int],
    name: str,
    seen: set[int],
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except ValueError as error:
            # A text that looks like a date or a number, and is none: 2026-99-99.
            told.append(f"{name}: line {line}: {node.value!r}: {error}; put it in quotes")
            return node.value
    if len(path) > _DEPTH_MAX:
        raise Misconfigured(f"{name}: line {line}: nested deeper than {_DEPTH_MAX} levels")
    # An alias shows its node again: a few lines of them can stand for gigabytes, or for themselves.
    if id(node) in seen:
        raise Misconfigured(f"{name}: line {line}: shown again by an alias; write it out instead")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(loader, item, (*path, index), told=told, lines=lines, name=name, seen=seen)
            for index, item in enumerate(node.value)
        ]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise Misconfigured(f"{name}: line {key_line}: a key must be plain text")
        key = str(key_node.value)
        if key in values:
            told.append(f"{name}: line {key_line}: {key!r} is given twice; keep one")
        lines[(*path, key)] = key_line
        values[key] = _plain(
            loader, value_node, (*path, key), told=told, lines=lines, name=name, seen=seen
        )
    return values
