"""`millstream templates`: all mistakes of files are told at once, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millstream.gateway.checks.templates import (
    templates_found,
    waits_of_members,
    workers_found,
)
from millstream.gateway.cli import app
from millstream.gateway.commands.templates import _by_model, _chosen, _load, _of_apps, _print_table
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.errors import Misconfigured, UnknownTemplate
from millstream.schemas.lane_events import TemplateWait
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


def wait(name: str, version: str | None, *tools: str) -> TemplateWait:
    return TemplateWait(template=name, version=version, tools=tools, since_ms=1)


def test_list_tells_that_new_runs_get_the_apps_where_no_worker_can_run_what_was_applied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    applied = (
        AppliedTemplate(making.template_applied(name="desk"), 0),
        AppliedTemplate(making.template_applied(name="own"), 1),
    )
    newer = Capabilities(frozenset({"desk", "own"}), frozenset({("desk", "2"), ("own", "1")}))
    members = (LaneMember("w1", newer),)
    assert _of_apps(applied, members) == ("desk",)
    _print_table(applied, members)
    _, desk, own = capsys.readouterr().out.splitlines()
    assert "not here" in desk
    assert "new runs" in own


def test_doctor_names_what_no_live_worker_can_run_and_what_waits() -> None:
    applied = (
        AppliedTemplate(making.template_applied(name="clerk"), 0),
        AppliedTemplate(making.template_applied(name="gone", retired=True), 1),
        AppliedTemplate(making.template_applied(name="own"), 2),
    )
    # A lone worker never asks its group for what it lacks: the log alone tells.
    waiting = (*[wait("own", "0")] * 3, wait("own", "0", "refund"), wait("nope", None))
    found = templates_found(applied, (able("w1", "own"),), (*waiting, wait("own", None)))
    lacked = ", which they began with: no live worker has it"
    assert [(one.level, one.told) for one in found] == [
        ("note", "1 request waits for template 'nope': no live worker has it"),
        ("wrong", f"3 runs wait for template 'own', version '0'{lacked}"),
        (
            "wrong",
            f"1 run waits for template 'own', version '0', with refund{lacked} with its tools",
        ),
        ("wrong", "no live worker can run 'clerk', version '1'"),
    ]
    listed = "`millstream runs list --state lacking --template own --version 0`"
    assert all(
        word in found[1].remedy for word in (listed, "runs migrate", "cancel", "Start a worker")
    )


def test_doctor_notes_runs_that_a_live_worker_takes() -> None:
    waits: frozenset[Need] = frozenset({("own", "1"), ("own", "0")})
    members = (able("w1", "other"), able("w2", "own", "other", waits=waits))
    taken, _ = templates_found((), members, (wait("own", "1"),))
    assert (taken.level, taken.told) == (
        "note",
        (
            "1 run waits for template 'own', version '1', or did before they went on: a live "
            "worker has it"
        ),
    )
    # Where the log may not be read, what workers said is gone by.
    (lacks, _) = templates_found((), members, waits_of_members(members), counted=False)
    assert (lacks.level, lacks.told) == (
        "wrong",
        (
            "runs wait for template 'own', version '0', which they began with: no live worker "
            "has it with its tools"
        ),
    )


def test_doctor_says_that_no_worker_runs() -> None:
    none = workers_found((), group="shop-lanes")
    assert (none.level, none.told) == (
        "wrong",
        "none is in the group shop-lanes: requests wait, and so do runs that have begun",
    )
    assert "millstream worker" in none.remedy
    assert workers_found((), group="shop-lanes", starts=True).level == "note"
    some = workers_found(tuple(able(f"w{number}") for number in range(9)), group="shop-lanes")
    assert some.level == "ok"
    assert some.told.startswith("9 in the group shop-lanes: w0, w1, ")
    assert "w7 and 1 more; one that crashed" in some.told
    (stranded,) = templates_found((), (), (wait("own", "1"),))
    assert stranded.level == "wrong"


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
