"""A system prompt with variables: `{customer_name}`, filled in from a request's metadata.

What stands for a variable comes from outside. So it is put in as it is and never looked at again,
it has a longest length, and it is one line unless its declaration says otherwise. Nothing of
Python's format language is understood: `{name}` and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import ConfigDict, Field, StringConstraints

from millstream.schemas.base import Frozen
from millstream.schemas.errors import PromptVariableRefused

__all__ = ["PromptVariable", "VariableName", "filled_prompt", "prompt_problem"]

VALUE_CHARS_MAX: Final = 1024
"""As long as a value of a request's metadata may be."""

VariableName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")]

# `{{name}}` is `{name}`; any other brace stands for itself, as in an example of JSON.
_IN_BRACES: Final = re.compile(r"\{\{([a-zA-Z_]\w*)\}\}|\{([a-zA-Z_]\w*)\}", re.ASCII)
_LIKE_A_FORMAT: Final = re.compile(r"\{([a-zA-Z_]\w*)[.\[!:][^{}\n]*\}", re.ASCII)


class PromptVariable(Frozen):
    """A variable of a system prompt.

    Attributes:
        default: What stands there where the request's metadata has no such key; without one such
            a request is rejected.
        chars_max: A longer value is rejected.
        multiline: Whether a value may hold line breaks and tabs. Other control characters are
            always rejected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Annotated[str, Field(max_length=VALUE_CHARS_MAX)] | None = None
    chars_max: Annotated[int, Field(ge=1, le=VALUE_CHARS_MAX)] = 200
    multiline: bool = False

    def problem_of(self, value: str) -> str | None:
        """Say what is wrong with a value, `None` if nothing is."""
        if len(value) > self.chars_max:
            return f"has {len(value)} characters, more than {self.chars_max}"
        for char in value:
            if self.multiline and char in "\n\r\t":
                continue
            # Control characters, and the separators of lines and paragraphs.
            if unicodedata.category(char) in {"Cc", "Zl", "Zp"}:
                what = "a line break" if char in "\n\r\u2028\u2029" else "a control character"
                return f"holds {what}"
        return None


def prompt_problem(prompt: str | None, variables: Mapping[str, PromptVariable]) -> str | None:
    """Say what is wrong with a prompt and the declarations of its variables."""
    text = prompt or ""
    used = {name for _, name in _IN_BRACES.findall(text) if name}
    for name in sorted(used - variables.keys()):
        return (
            f"`system_prompt` holds {{{name}}}, which is not declared: add {name!r} to "
            f"`prompt_variables`, or write {{{{{name}}}}} if these words are meant"
        )
    for found in _LIKE_A_FORMAT.finditer(text):
        if found[1] in variables:
            return f"`system_prompt` holds {found[0]}: write {{{found[1]}}}, nothing else is filled"
    for name in sorted(variables.keys() - used):
        return f"`prompt_variables` declares {name!r}, and `system_prompt` holds no {{{name}}}"
    for name, variable in variables.items():
        if variable.default is not None and (why := variable.problem_of(variable.default)):
            return f"the default of the prompt variable {name!r} {why}"
    return None


def filled_prompt(
    prompt: str, variables: Mapping[str, PromptVariable], metadata: Mapping[str, str]
) -> str:
    """Give a prompt with its variables filled in.

    Raises `PromptVariableRefused` that names each value that is missing or cannot be taken.
    """
    values: dict[str, str] = {}
    wrong: list[str] = []
    for name, variable in variables.items():
        value = metadata.get(name, variable.default)
        why = "is missing" if value is None else variable.problem_of(value)
        if value is None or why is not None:
            wrong.append(f"metadata[{name!r}] {why}")
        else:
            values[name] = value
    if wrong:
        raise PromptVariableRefused(f"the template's system prompt needs it: {'; '.join(wrong)}")
    return _IN_BRACES.sub(lambda found: values[found[2]] if found[2] else f"{{{found[1]}}}", prompt)
