"""An agent template as a YAML file: read whole, and told of all its mistakes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.policy_errors import explain
from millstream.middleware.yaml_tree import YamlTree, read_yaml
from millstream.schemas.errors import Misconfigured

__all__ = ["load_template"]

FILE_BYTES_MAX: Final = 1_000_000

_PROMPT: Final = "system_prompt"
_PROMPT_FILE: Final = "system_prompt_file"


def load_template(path: Path) -> AgentTemplate:
    """Read the one template of a YAML file.

    Its keys are the fields of `AgentTemplate`. Instead of `system_prompt`, `system_prompt_file`
    may name a file beside it, in UTF-8, whose line breaks at the end are left out.

    Raises `Misconfigured` that lists every mistake, each with its file, line and field, and what to
    write instead: also for a file that cannot be read, is longer than 1 MB, is not in UTF-8, gives
    a key twice, holds an alias, or holds more templates than one.
    """
    name = str(path)
    tree = read_yaml(_text(path, name), name)
    if isinstance(tree.value, list):
        raise Misconfigured(f"{name}: holds a list; give each template a file of its own")
    if not isinstance(tree.value, dict) or not tree.value:
        raise Misconfigured(f"{name}: must hold the fields of a template, as in `name: orders`")
    mistakes = _with_prompt(tree, path)
    try:
        template = AgentTemplate.model_validate(tree.value)
    except ValidationError as error:
        mistakes.extend(explain(error, name, tree, AgentTemplate))
    if mistakes:
        raise Misconfigured("\n".join(mistakes))
    return template


def _with_prompt(tree: YamlTree, path: Path) -> list[str]:
    """Put the words of `system_prompt_file` in its place; gives what is wrong with it."""
    if _PROMPT_FILE not in tree.value:
        return []
    named = tree.value.pop(_PROMPT_FILE)
    line = tree.line_of((_PROMPT_FILE,))
    where = f"{path}: line {line}: {_PROMPT_FILE}: "
    if _PROMPT in tree.value:
        return [f"{where}`{_PROMPT}` is given as well; keep one"]
    if not isinstance(named, str):
        return [f"{where}must be the name of a file, it is {named!r}"]
    try:
        words = _text(path.parent / named, str(path.parent / named))
    except Misconfigured as error:
        return [f"{where}{error}"]
    tree.value[_PROMPT] = words.rstrip("\r\n")
    if line is not None:
        tree.lines[(_PROMPT,)] = line
    return []


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Misconfigured(f"{name}: cannot be read: {why}") from error
    if len(data) > FILE_BYTES_MAX:
        raise Misconfigured(f"{name}: longer than {FILE_BYTES_MAX:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Misconfigured(f"{name}: line {line}: not in UTF-8: {error.reason}") from error
