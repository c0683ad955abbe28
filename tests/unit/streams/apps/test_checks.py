"""What is wrong with an app: all of it at once, each with the file and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from millstream import AgentMiddleware, AgentResult, AgentTemplate, App, ModelEndpoint
from millstream.schemas.errors import Misconfigured
from millstream.streams.apps.checks import parts_of

HERE = "tests/unit/streams/apps/test_checks.py"


@tool
def look_up(number: int) -> str:
    """Look something up."""
    return str(number)


class Quiet(AgentMiddleware):
    """Says nothing."""

    name = "quiet"
    priority = 50


class Nameless(AgentMiddleware):
    """Has no name."""


class Raises(AgentMiddleware):
    """Cannot be made."""

    name = "raises"
    priority = 50

    def __init__(self) -> None:
        raise OSError("no database")  # noqa: EM101  an app's own


class SecondAuth(Quiet):
    """Has a name that is taken."""

    name = "auth"


def faults(**given: Any) -> list[str]:
    with pytest.raises(Misconfigured) as raised:
        parts_of(App("shop", **given))
    return [line.removeprefix(f"{HERE}: ") for line in str(raised.value).splitlines()]


def test_an_app_without_mistakes_gives_its_parts_beside_what_is_built_in() -> None:
    own = AgentTemplate(name="own", kind="react", tools=("look_up", "calculator"))
    endpoint = {"base_url": "http://127.0.0.1:1/v1"}
    app = App("shop", templates=[own], tools=[look_up], layers=[Quiet], models={"vllm": endpoint})
    parts = parts_of(app)
    assert [one.name for one in parts.templates][-1] == "own"
    assert parts.tools.names() == ("calculator", "current_time", "look_up")
    assert parts.layers == (Quiet,)
    assert parts.endpoints == {"vllm": ModelEndpoint(base_url="http://127.0.0.1:1/v1")}
    assert [one.name for one in parts_of(App("x", templates=[], built_in=False)).templates] == []


def test_all_mistakes_are_told_at_once_each_with_its_field(tmp_path: Path) -> None:
    odd = tmp_path / "odd.yaml"
    odd.write_text("name: odd\nkind: chat\nttools: [x]\n", encoding="utf-8")
    told = faults(
        templates=[
            AgentTemplate(name="own", kind="react", tools=("refund",)),
            AgentTemplate(name="chat_agent"),
            odd,
            tmp_path / "none.yaml",
            7,
        ],
        tools=[look_up, 7],
        layers=[Nameless, Raises, SecondAuth, "auth", dict],
        models={"local": lambda **_: None, "A B": lambda **_: None, "v": {"base_url": "ftp://x"}},
        policy="none.yaml",
    )
    found = "\n".join(told)
    for words in (
        "templates[0] 'own': no tool is called 'refund'; known: calculator, current_time, look_up",
        "templates[1]: a template called 'chat_agent' is built in: rename this one",
        f"{odd}",
        "ttools",
        "none.yaml",
        "templates[4]: must be an AgentTemplate or the path of one, not 7",
        "tools[1]: ",
        "layers[0]: Nameless needs a `name`, a `priority`, and super().__init__()",
        "layers[1]: Raises cannot be used: OSError: no database",
        "layers: the layer name 'auth' is taken; give each layer its own",
        "layers[3]: must make a layer, a class for instance, not 'auth'",
        "layers[4]: dict makes {}, which is no AgentMiddleware",
        "models['local']: is a name of Millstream's own: choose another",
        "models['A B']: ",
        "models['v'].base_url: ",
        "policy: there is no file tests/unit/streams/apps/none.yaml",
    ):
        assert words in found, found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tools": look_up}, "tools: must be a list, not "),
        ({"templates": "own.yaml"}, "templates: must be a list, not 'own.yaml'"),
        ({"layers": Quiet}, "layers: must be a list, not Quiet"),
        ({"models": ["x"]}, "models: must be a dict, not ['x']"),
        (
            {"tools": [look_up, look_up.model_copy()]},
            "tools[1]: there are two tools called 'look_up'",
        ),
    ],
)
def test_a_field_of_the_wrong_kind_is_told(given: dict[str, Any], told: str) -> None:
    assert faults(**given)[0].startswith(told)


def test_of_several_versions_the_last_is_for_new_runs_and_the_others_are_kept(
    tmp_path: Path,
) -> None:
    for version in ("1", "2"):
        text = f'name: desk\nversion: "{version}"\nsystem_prompt: As {version}.\n'
        (tmp_path / f"desk_{version}.yaml").write_text(text, encoding="utf-8")
    files = [tmp_path / "desk_1.yaml", tmp_path / "desk_2.yaml"]
    factory = parts_of(App("shop", templates=[*files, files[0]])).factory()
    assert factory.template("desk").version == "2"
    assert factory.template("desk", "1").system_prompt == "As 1."
    assert factory.offers >= {("desk", "1"), ("desk", "2")}
    factory.retire("desk", "2")  # the others are for no new run
    assert not factory.has("desk")


def test_one_version_of_two_contents_is_told_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "desk.yaml"
    file.write_text('name: desk\nversion: "1"\n', encoding="utf-8")
    (told,) = faults(templates=[AgentTemplate(name="desk", system_prompt="Hi."), file])
    assert told.startswith(f"{file}: version: template 'desk' has another content as version '1' ")
    assert told.endswith("give this one another version, or rename it")


def test_a_name_is_needed() -> None:
    with pytest.raises(Misconfigured, match="name: must be a text of 1 to 64 characters"):
        parts_of(App(""))


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"name": 3}, "`name` must be a text of 1 to 64 printable characters, not 3"),
        ({"name": ""}, "`name` must be a text of 1 to 64 printable characters, not ''"),
        ({"priority": "35"}, "`priority` must be a number, not '35'"),
        ({"priority": None}, "`priority` must be a number, not None"),
        ({"priority": float("nan")}, "`priority` must be a number, not nan"),
        (
            {"folds": AgentResult},
            "`folds` must be a set of event types, as frozenset({AgentResult})",
        ),
        (
            {"folds": {"result"}},
            "`folds` must be a set of event types, as frozenset({AgentResult})",
        ),
        ({"history_ms": "1 day"}, "`history_ms` must be milliseconds, a whole number from 0 on"),
    ],
)
def test_a_layer_that_no_lane_could_hold_is_told_by_its_field(
    declared: dict[str, Any], told: str
) -> None:
    (fault,) = faults(layers=[type("Odd", (Quiet,), declared)])
    assert fault.startswith(f"layers[0]: Odd: {told}")


def test_a_function_that_forgets_to_give_its_layer_is_told() -> None:
    """Else its chain runs without it, and nobody is turned away."""
    (fault,) = faults(layers=[lambda: None])
    assert fault == "layers[0]: <lambda> makes None, which is no AgentMiddleware"
