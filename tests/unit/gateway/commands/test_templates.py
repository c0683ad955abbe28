"""`millstream templates`: all mistakes of files are told at once, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millstream.gateway.checks.templates import templates_found
from millstream.gateway.cli import app
from millstream.gateway.commands.templates import _by_model, _chosen, _load, _of_apps
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.errors import Misconfigured, UnknownTemplate
from millstream.streams.consumer.capabilities import Capabilities, Need
from millstream.streams.consumer.members import LaneMember
from millstream.streams.settings import Settings
from millstream.streams.templates.records import AppliedTemplate
from tests import making


def able(worker: str, *names: str, waits: frozenset[Need] = frozenset()) -> LaneMember:
    can_run = Capabilities(frozenset(names), frozenset((name, "1") for name in names))
    return LaneMember(worker, can_run, {0: waits})


def test_every_mistake_of_every_file_is_told_with_its_field(tmp_path: Path) -> None:
    files = {
        "good.yaml": "name: own\n",
        "again.json": '{"name": "own"}',
        "bad.yaml": "name: x\nkind: poet\noutput_tokens_max: 0\nsystem_promt: hi\n",
        "list.yaml": "- name: x\n",
        "broken.yaml": "name: [\n",
        "tools.yaml": "name: y\nkind: react\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured) as told:
        _load([tmp_path / name for name in files])
    told_of = {
        name: [line for line in str(told.value).splitlines() if f"/{name}: " in line]
        for name in files
    }
    assert "name: template 'own', version '1', is in" in told_of["again.json"][0]
    bad = "\n".join(told_of["bad.yaml"])
    assert all(field in bad for field in ("kind: ", "output_tokens_max: ", "system_promt"))
    assert all(told_of[name] for name in files if name != "good.yaml")
    (good,) = _load([tmp_path / "good.yaml"])
    assert (good.name, good.version) == ("own", "1")


@pytest.mark.parametrize(
    "arguments", [["apply"], ["apply", "/nowhere.yaml"], ["show"], ["retire"], ["forget", "x"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["templates", *arguments]).exit_code == 2


def test_templates_of_apps_are_told_beside_those_that_were_applied() -> None:
    applied = (
        AppliedTemplate(making.template_applied(name="clerk"), 0),
        AppliedTemplate(making.template_applied(name="shop", retired=True), 1),
    )
    members = (able("w1", "clerk", "shop"), able("w2", "chat_agent"), LaneMember("w3", None))
    assert _of_apps(applied, members) == ("chat_agent", "shop")
    with pytest.raises(UnknownTemplate, match=r"those that were: .*'chat_agent' of their app"):
        _chosen(applied, "chat_agent", None, members)
    with pytest.raises(UnknownTemplate, match=r"those that were: clerk 1, shop 1$"):
        _chosen(applied, "nothing", None, members)


@pytest.mark.parametrize(
    ("content", "by_model"),
    [
        ({}, {"output_tokens_max": 4096, "memory.tokens_max": 32_768}),
        ({"models": ["vllm:qwen"]}, {"output_tokens_max": 1024, "memory.tokens_max": 4096}),
        ({"models": ["local"], "memory": {"strategy": "none"}}, {"output_tokens_max": 256}),
        (
            {"output_tokens_max": 9, "memory": {"strategy": "summary", "tokens_max": 16_000}},
            {"memory.summary_tokens_max": 1000, "memory.read_tokens_max": 32_768},
        ),
        ({"of_a_newer_version": 1}, {}),
    ],
)
def test_show_tells_what_sizes_by_the_model_come_to(
    content: dict[str, Any], by_model: dict[str, int]
) -> None:
    one = AppliedTemplate(making.template_applied(content={"name": "own", **content}), 0)
    vllm = ModelEndpoint(base_url="http://127.0.0.1:1/v1", context_tokens_max=8192)
    settings = Settings(default_model="openai:gpt-4o", model_endpoints={"vllm": vllm})
    assert _by_model(one, settings) == by_model


def test_doctor_names_what_no_live_worker_can_run_and_what_waits() -> None:
    applied = (
        AppliedTemplate(making.template_applied(name="clerk"), 0),
        AppliedTemplate(making.template_applied(name="gone", retired=True), 1),
        AppliedTemplate(making.template_applied(name="own"), 2),
    )
    waits: frozenset[Need] = frozenset({("nope", None), ("own", None), ("own", "0"), ("own", "1")})
    found = templates_found(applied, (able("w1", "own", waits=waits), able("w2", "own")))
    assert [(one.level, one.told) for one in found] == [
        ("wrong", "no live worker can run 'clerk', version '1'"),
        ("note", "requests wait for template 'nope': no live worker has it"),
        (
            "wrong",
            (
                "runs wait for template 'own', version '0', which they began with: no live worker "
                "has it with its tools"
            ),
        ),
    ]
    assert "cancel them" in found[-1].remedy


def test_doctor_advises_namespaces_for_apps_that_differ() -> None:
    found = templates_found((), (able("w1", "a", "b"), able("w2", "a", "c")))
    assert [one.told for one in found] == [
        "worker w1 lacks c, which others have",
        "worker w2 lacks b, which others have",
    ]
    assert all("MILLSTREAM_NAMESPACE" in one.remedy for one in found)


def test_doctor_says_nothing_of_what_cannot_be_known() -> None:
    applied = (AppliedTemplate(making.template_applied(), 0),)
    assert templates_found(applied, ()) == ()
    assert templates_found(applied, (LaneMember("old", None),)) == ()
    (fine,) = templates_found(applied, (able("w", "own"), LaneMember("old", None)))
    assert (fine.level, fine.told) == ("ok", "1, which each of 1 workers can run")
