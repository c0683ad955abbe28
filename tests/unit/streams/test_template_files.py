"""Templates as YAML files: all mistakes at once, each with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.agents.templates.memory import TokenBudget
from millstream.agents.templates.named_middlewares import OwnMiddleware, Pii
from millstream.schemas.errors import Misconfigured
from millstream.streams.template_files import load_template

NUMBER = (
    "line 4: output_tokens_max: Input should be a valid integer, unable to parse string as an "
    "integer (it is 'many')"
)

WHOLE = """\
name: orders
version: "3"
kind: react
models: ["openai:gpt-5-mini", default]
system_prompt: Help {customer}.
prompt_variables:
  customer: {chars_max: 80}
permissions: ["orders:read"]
tools: [calculator]
memory: {strategy: token_budget, tokens_max: 4000}
middlewares:
  - {name: pii, params: {pii_type: email}}
  - {name: polite, params: {words: 3}}
retry: {attempts_max: 2}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "orders.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    path = written(folder, text)
    with pytest.raises(Misconfigured) as refused:
        load_template(path)
    return [line.removeprefix(f"{path}: ") for line in str(refused.value).splitlines()]


def test_a_whole_template_is_read(tmp_path: Path) -> None:
    template = load_template(written(tmp_path, WHOLE))
    assert (template.name, template.version) == ("orders", "3")
    assert template.models == ("openai:gpt-5-mini", "default")
    assert template.memory == TokenBudget(tokens_max=4000)
    first, second = template.middlewares
    assert isinstance(first, Pii)
    assert second == OwnMiddleware(name="polite", params={"words": 3})
    assert template.retry.attempts_max == 2


def test_a_template_is_the_same_after_json(tmp_path: Path) -> None:
    template = load_template(written(tmp_path, WHOLE))
    assert type(template).model_validate_json(template.model_dump_json()) == template


def test_all_mistakes_are_told_at_once_each_with_its_line_and_field(tmp_path: Path) -> None:
    text = """\
name: orders
version: 3
fallback_models: [local]
output_tokens_max: many
memory:
  strategy: last_turns
  turn_max: 3
middlewares:
  - name: pii
    params: {pii_type: email, stratgy: mask}
retry: {attempts: 2}
"""
    told = mistakes(tmp_path, text)
    assert set(told[:-1]) == {
        'line 2: version: must be text; put it in quotes: "3"',
        NUMBER,
        "line 7: memory.turn_max: unknown key; did you mean 'turns_max'?",
        "line 10: middlewares.0.params.stratgy: unknown key; did you mean 'strategy'?",
        "line 11: retry.attempts: unknown key; did you mean 'attempts_max'?",
    }
    assert told[-1].startswith("line 3: fallback_models: unknown key; known: ")


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("prompt_variables: {who: {chars: 3}}", "prompt_variables.who.chars"),
        ("memory: {strategy: summary, turns: 3}", "memory.turns"),
        ("middlewares: [{name: todo_list, parms: {}}]", "middlewares.0.parms"),
        ("retry: {attempts: 2}", "retry.attempts"),
        ("session: {create: true}", "session.create"),
        ("session: {ttl: {idle: 60}}", "session.ttl.idle"),
    ],
)
def test_no_misspelt_key_is_passed_over(tmp_path: Path, field: str, where: str) -> None:
    (told,) = mistakes(tmp_path, f"name: a\n{field}\n")
    assert told.startswith(f"line 2: {where}: unknown key; ")


def test_a_strategy_that_is_unknown_is_told_with_the_known_ones(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, "name: a\nmemory: {strategy: vector}\n")
    assert told.startswith("line 2: memory: ")
    assert "'last_turns', 'token_budget', 'summary'" in told


def test_what_cannot_be_named_says_what_to_write_instead(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, "name: a\nmiddlewares: [{name: tool_retry}]\n")
    assert told.startswith("line 2: middlewares.0.name: 'tool_retry' cannot be named")
    assert "`retry` does it" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nname: b\n", "line 2: 'name' is given twice; keep one"),
        ("- {name: a}\n- {name: b}\n", "holds a list; give each template a file of its own"),
        ("name: a\n---\nname: b\n", "line 2: not YAML: but found another document"),
        ("", "must hold the fields of a template"),
        ("just words", "must hold the fields of a template"),
        ("version: '1'\n", "name: is missing; add it"),
        (b"name: a\nsystem_prompt: \xff\xfe\n", "line 2: not in UTF-8"),
        ("memory: &a {strategy: none}\nretry: *a\n", "shown again by an alias"),
        ("name: !!python/object:os.system x\n", "could not determine a constructor"),
        ("name: [a\n", "not YAML"),
        ("#" * 1_000_001, "longer than 1,000,000 bytes"),
        ("name: a\nretry: 3\n", "line 2: retry: must be a mapping (attempts_max, "),
        ("name: a\nkind: react\n", "the kind `react` needs `tools`"),
        ("name: a\npermissions: ['orders:*']\n", "line 2: permissions.0: "),
        ("name: a\nmodels: local\n", "line 2: models: must be a list, as in ['local']"),
    ],
)
def test_a_mistake_says_where_and_what(tmp_path: Path, text: str | bytes, words: str) -> None:
    (told,) = mistakes(tmp_path, text)
    assert words in told


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (told,) = mistakes(tmp_path, "\n".join(lines))
    assert "shown again by an alias" in told


def test_a_prompt_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("Help.\nBriefly.\n\n")
    template = load_template(written(tmp_path, "name: a\nsystem_prompt_file: p.md\n"))
    assert template.system_prompt == "Help.\nBriefly."


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("system_prompt_file: none.md", "none.md: cannot be read: No such file or directory"),
        ("system_prompt_file: 3", "must be the name of a file, it is 3"),
        ("system_prompt_file: p.md\nsystem_prompt: x", "`system_prompt` is given as well"),
        ("system_prompt_file: .", "cannot be read: Is a directory"),
        ("system_prompt_file: long.md", "at most 32768 characters"),
    ],
)
def test_a_prompt_file_that_cannot_be_taken_is_told_with_its_line(
    tmp_path: Path, rest: str, words: str
) -> None:
    (tmp_path / "p.md").write_text("Help.")
    (tmp_path / "long.md").write_text("x" * 40_000)
    (told,) = mistakes(tmp_path, f"name: a\n{rest}\n")
    assert told.startswith("line 2: system_prompt")
    assert words in told
    assert len(told) < 1_000


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no\.yaml: cannot be read: No such file"):
        load_template(tmp_path / "no.yaml")
