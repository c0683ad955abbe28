"""A case as its file tells it. What nothing reads, as a misspelt key, is refused by its name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.base import Reason, Usage
from millstream.schemas.events import AgentRequest
from tests.providers.right import FIELDS, KEYS

__all__ = ["PROVIDERS", "Case", "CaseRefused", "case_of", "read_case", "read_cases"]

PROVIDERS: Final = ("openai", "anthropic", "google_genai", "ollama")

_NEEDED: Final = ("name", "requests", "server", "right")
_CASE: Final = frozenset(
    {*_NEEDED, "templates", "prices", "template", "model", "policy", "on_kafka", "note", "tool"}
)
# Each has an answer for a value, or several by name.
_REFUSALS: Final = ("refusal", "refuse_if_asked_for_usage", "refuse_if_call_without_answer",
                    "refuse_if_empty_assistant")  # fmt: skip
_REFUSALS_BY_NAME: Final = "refuse_if_named"
_ANSWER: Final = frozenset(
    {
        *("says", "thinks", "calls", "finish", "usage", "usage_at_start", "usage_only_if_asked"),
        *("sse", "then", "end", "json", "raw", "content_type", "status", "headers", "for_s"),
        *("refuse_if_chars_above", _REFUSALS_BY_NAME, *_REFUSALS),
    }
)
_CALL: Final = frozenset({"name", "arguments", "id"})


class CaseRefused(Exception):
    """A case's file cannot be played as it stands; says where and why."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a provider sends, what is asked of it, and what is right.

    `on_kafka`: it is also played to a lane on real Kafka. `fault` says why it cannot be played.
    """

    name: str
    file: str
    templates: tuple[str, ...]
    server: Mapping[str, Any]
    requests: tuple[Mapping[str, Any], ...]
    right: tuple[Mapping[str, Any], ...]
    prices: Mapping[str, Any]
    template: Mapping[str, Any]
    model: Mapping[str, Any]
    policy: Mapping[str, Any]
    on_kafka: bool
    fault: CaseRefused | None = None


def read_cases(folder: Path) -> list[Case]:
    """Read all cases of a folder, by name; one that is refused has its `fault`, and fails alone."""
    return [_read_or_fault(path) for path in sorted(folder.glob("*.json"))]


def _read_or_fault(path: Path) -> Case:
    try:
        return read_case(path)
    except CaseRefused as fault:
        return Case(path.stem, path.stem, ("chat_agent",), {}, (), (), {}, {}, {}, {}, False, fault)


def read_case(path: Path) -> Case:
    """Read a case. Raises `CaseRefused`, naming the file."""
    try:
        return case_of(json.loads(path.read_text("utf-8")), path.stem)
    except ValueError as error:
        message = f"{path.name} is no JSON: {error}"
        raise CaseRefused(message) from error
    except CaseRefused as error:
        message = f"{path.name}: {error}"
        raise CaseRefused(message) from error


def case_of(told: Mapping[str, Any], file: str = "") -> Case:
    """Give a case as a file tells it. Raises `CaseRefused`."""
    if (fault := next(_faults(told), None)) is not None:
        raise CaseRefused(fault)
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}
    fallback = {f"{provider}:fake": price for provider in PROVIDERS}
    return Case(
        name=told["name"],
        file=file,
        templates=tuple(told.get("templates", ("chat_agent", "react_agent"))),
        server=told["server"],
        requests=tuple(told["requests"]),
        right=tuple(told["right"]),
        prices=told.get("prices", fallback),
        template=told.get("template", {}),
        model=told.get("model", {}),
        policy=told.get("policy", {}),
        on_kafka=told.get("on_kafka", False),
    )


def _faults(told: Any) -> Iterator[str]:
    yield from _unknown(told, _CASE, "the case")
    for key in _NEEDED:
        if key not in told:
            yield f"the case has no {key!r}"
    yield from _unknown(told.get("template", {}), AgentTemplate.model_fields, "`template`")
    requests, right, _ = (_listed(told.get(key, [])) for key in ("requests", "right", "templates"))
    yield from _unlike(told["server"], "`server`")
    for number, asked in enumerate(requests):
        where = f"request {number}"
        yield from _unknown(asked, AgentRequest.model_fields, where)
        if "input" not in asked:
            yield f"{where} has no 'input'"
        yield from _unanswered(asked, told["server"], where)
    for text, answers in told["server"].items():
        for number, answer in enumerate(_listed(answers)):
            yield from _faults_of_answer(answer, f"answer {number} to {text!r}")
    if len(requests) != len(right):
        yield f"`right` has {len(right)} entries for {len(requests)} requests: each has its own"
    for number, wanted in enumerate(right):
        where = f"`right` of request {number}"
        yield from _unknown(wanted, KEYS, where)
        yield from _unknown(wanted.get("not", {}), FIELDS, f"`not` in {where}")
        yield from _unknown(wanted.get("usage", {}), Usage.model_fields, f"`usage` in {where}")
        yield from _unknown(wanted.get("reason", {}), Reason.model_fields, f"`reason` in {where}")


def _unanswered(asked: Mapping[str, Any], server: Any, where: str) -> Iterator[str]:
    # What is asked of a model that no provider serves does not come to the server.
    provider, text = str(asked.get("model", "openai:fake")).partition(":")[0], str(asked["input"])
    if provider in PROVIDERS and text not in server:
        yield (
            f"`server` has no answers to {text!r}, which {where} asks{_near(text, server)} "
            "(give it [] if it is never asked)"
        )


def _faults_of_answer(answer: Any, where: str) -> Iterator[str]:
    yield from _unknown(answer, _ANSWER, where)
    for number, call in enumerate(_listed(answer.get("calls", []))):
        yield from _unknown(call, _CALL, f"call {number} of {where}")
    refusals = {key: answer[key] for key in _REFUSALS if key in answer}
    by_name = answer.get(_REFUSALS_BY_NAME, {})
    yield from _unlike(by_name, f"{_REFUSALS_BY_NAME!r} of {where}")
    for key, refusal in {**refusals, **by_name}.items():
        yield from _faults_of_answer(refusal, f"{key!r} of {where}")


def _unknown(told: Any, known: Collection[str], where: str) -> Iterator[str]:
    yield from _unlike(told, where)
    for key in told:
        if key not in known:
            yield f"{where} has a key {key!r}, which nothing reads{_near(key, known)}"


def _unlike(told: Any, where: str) -> Iterator[str]:
    if not isinstance(told, Mapping):
        yield f"{where} is no object, but {told!r}"


def _listed(told: Any) -> Sequence[Any]:
    if not isinstance(told, list):
        message = f"{told!r} is no list"
        raise CaseRefused(message)
    return told


def _near(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; is it {near[0]!r}?" if near else ""
