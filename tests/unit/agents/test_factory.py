"""From a request to a plan, and from a plan to a graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
from langchain_core.tools import StructuredTool

from millstream.agents.factory import AGENTS_CACHED_MAX, AgentFactory
from millstream.agents.models.known.windows import UNKNOWN_WINDOW, Window
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.templates.memory import LastTurns, Memory, NoMemory, Summary, TokenBudget
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.schemas.errors import Misconfigured, UnknownTemplate
from millstream.schemas.runs.errors import ModelUnavailable
from tests.harness.agent_runs import resolved


@pytest.fixture
def factory() -> AgentFactory:
    return AgentFactory(default_model="scripted")


def test_a_plan_says_what_a_run_will_use(factory: AgentFactory) -> None:
    plan = factory.plan(resolved("x"))
    assert (plan.template.name, plan.model, plan.output_tokens_max) == (
        "chat_agent",
        "scripted",
        256,
    )
    assert factory.plan(resolved("x", template="react_agent")).output_tokens_max == 8 * 256


def test_a_plan_says_the_most_that_a_run_may_read(factory: AgentFactory) -> None:
    bare = AgentTemplate(name="bare", memory=NoMemory())
    factory.register(bare)
    assert factory.plan(resolved("é", template="bare")).input_tokens_max == 2 + 3 * 16
    # The prompt, 3 bytes for each token of 20 remembered turns, and what frames the messages.
    chat = BUILT_IN_TEMPLATES[0]
    prompt = len(chat.system_prompt or "") + 3 * 1024 + 43 * 16
    assert factory.plan(resolved("x")).input_tokens_max == 1 + prompt
    # Eight calls, each of which reads again what the ones before it wrote.
    react = AgentTemplate(name="r", kind="react", tools=("calculator",), memory=NoMemory())
    factory.register(react)
    reads = 8 * (1 + 3 * 16 + 256) + 256 * (0 + 1 + 2 + 3 + 4 + 5 + 6 + 7)
    assert factory.plan(resolved("x", template="r")).input_tokens_max == reads


def windows(name: str) -> Window:
    return {"big": Window(128_000, 16_384), "small": Window(8192)}.get(name, UNKNOWN_WINDOW)


def test_a_plan_has_the_sizes_that_suit_all_of_its_models() -> None:
    factory = AgentFactory(default_model="big", windows=windows)
    factory.register(AgentTemplate(name="own", models=("default", "small")))
    for request, sizes in (
        (resolved("x"), (4096, 32_768)),
        (resolved("x", template="own"), (1024, 4096)),
        (resolved("x", model="small"), (1024, 4096)),
        (resolved("x", model="who:knows"), (256, 1024)),
        (resolved("x", model="big", template="own"), (1024, 4096)),
        (resolved("x", template="structured_agent"), (512, 32_768)),
    ):
        for one in (factory, factory.twin(ScriptedChatModel)):
            plan = one.plan(request)
            memory = plan.template.memory
            assert isinstance(memory, LastTurns)
            assert (plan.template.output_tokens_max, memory.tokens_max) == sizes
            assert plan.output_tokens_max == sizes[0]
            assert plan.input_tokens_max > 3 * sizes[1]
    # What it is registered with stays what was given.
    assert factory.template("own").output_tokens_max is None


def test_a_model_is_made_with_the_limit_of_the_plan_and_its_agent_shared() -> None:
    limits: list[int] = []

    def resolve(_name: str, *, max_tokens: int) -> ScriptedChatModel:
        limits.append(max_tokens)
        return ScriptedChatModel()

    factory = AgentFactory(default_model="big", windows=windows, resolve=resolve)
    factory.register(AgentTemplate(name="own", models=("default", "small")))
    plan = factory.plan(resolved("x", template="own"))
    follower = replace(plan, model="small")
    for _ in range(2):
        for one in (factory.plan(resolved("x")), plan, follower):
            factory.create(one)
        # A request's own choice, with other models behind it.
        factory.create(factory.plan(resolved("x", template="own", model="small")))
    assert limits == [4096, 1024, 1024]
    factory.register(AgentTemplate(name="own", models=("default", "small")))
    factory.create(plan)
    assert len(limits) == 3


@pytest.mark.parametrize("memory", [LastTurns(), TokenBudget(), Summary()])
def test_the_first_run_of_a_session_that_no_request_names_holds_nothing_for_memory(
    memory: Memory,
) -> None:
    factory = AgentFactory(default_model="big", windows=windows)
    for name, remembers in (("own", memory), ("bare", NoMemory())):
        factory.register(AgentTemplate(name=name, memory=remembers))
    request = resolved("x", template="own", session_id=None)
    assert request.session_id == request.request_id
    first, bare = factory.plan(request), factory.plan(resolved("x", template="bare"))
    later = factory.plan(resolved("x", template="own"))
    for figure in ("input_tokens_max", "output_tokens_max", "model_calls_max"):
        assert getattr(first, figure) == getattr(bare, figure) <= getattr(later, figure)
    assert later.input_tokens_max > first.input_tokens_max + 90_000
    assert first.template == later.template


def test_a_version_is_no_other_where_an_earlier_one_had_numbers_for_its_sizes() -> None:
    factory = AgentFactory(default_model="big", windows=windows)
    mine = AgentTemplate(name="own", memory=Summary(model="small"))
    factory.register(mine)
    written = {"name": "own", "output_tokens_max": 256, "memory": {"strategy": "summary"}}
    sizes = {"tokens_max": 1024, "summary_tokens_max": 256, "read_tokens_max": 1024}
    written["memory"] |= {"model": "small", **sizes}  # type: ignore[operator]
    factory.register(AgentTemplate.model_validate(written))
    assert factory.template("own") == mine
    assert factory.plan(resolved("x", template="own")).template.output_tokens_max == 4096
    for changed in ({"output_tokens_max": 257}, {"memory": {"strategy": "summary"}}):
        with pytest.raises(Misconfigured, match="changed"):
            factory.register(AgentTemplate.model_validate(written | changed))


def test_tools_that_are_not_known_to_change_nothing_are_taken_to_have_effects() -> None:
    mail = StructuredTool.from_function(lambda text: text, name="mail", description="Send mail")
    factory = AgentFactory(tools=ToolRegistry([*built_in_tools(), mail]))
    factory.register(AgentTemplate(name="clerk", kind="react", tools=("calculator", "mail")))
    assert factory.plan(resolved("x", template="clerk")).has_effects
    assert not factory.plan(resolved("x", template="react_agent")).has_effects
    assert not factory.plan(resolved("x")).has_effects


def test_a_requests_model_goes_before_the_templates_and_that_before_the_default(
    factory: AgentFactory,
) -> None:
    factory.register(AgentTemplate(name="own", models=("scripted:hang",)))
    assert factory.plan(resolved("x", template="own")).model == "scripted:hang"
    assert factory.plan(resolved("x", template="own", model="other:m")).model == "other:m"


def test_an_unknown_template_is_refused_with_the_known_ones(factory: AgentFactory) -> None:
    with pytest.raises(UnknownTemplate, match="chat_agent, react_agent, structured_agent"):
        factory.plan(resolved("x", template="nosuch"))


def test_templates_are_listed_by_name(factory: AgentFactory) -> None:
    assert factory.list() == BUILT_IN_TEMPLATES


def test_an_agent_is_built_once_per_template_version_and_model(factory: AgentFactory) -> None:
    first = factory.create(factory.plan(resolved("x")))
    assert factory.create(factory.plan(resolved("y"))) is first
    factory.register(AgentTemplate(name="chat_agent", version="2", system_prompt="Be brief."))
    plan = factory.plan(resolved("x"))
    assert plan.template.version == "2"
    assert factory.create(plan) is not first


def test_agents_of_models_that_requests_name_are_bounded(factory: AgentFactory) -> None:
    for index in range(AGENTS_CACHED_MAX + 5):
        factory.create(factory.plan(resolved("x", model=f"scripted:tokens: {index}")))
    assert len(factory._agents) == AGENTS_CACHED_MAX


def test_a_version_names_one_content(factory: AgentFactory) -> None:
    factory.register(BUILT_IN_TEMPLATES[0])
    with pytest.raises(Misconfigured, match="version other than '1'"):
        factory.register(AgentTemplate(name="chat_agent", system_prompt="Be rude."))


def test_a_template_with_an_unknown_tool_is_refused(factory: AgentFactory) -> None:
    with pytest.raises(Misconfigured, match="nosuch"):
        factory.register(AgentTemplate(name="own", kind="react", tools=("nosuch",)))


def test_a_model_that_is_not_there_is_told_when_the_agent_is_made(factory: AgentFactory) -> None:
    plan = factory.plan(resolved("x", model="nosuch"))
    with pytest.raises(ModelUnavailable):
        factory.create(plan)


def test_a_run_is_planned_with_the_version_that_it_began_with(factory: AgentFactory) -> None:
    for version in ("1", "2"):
        factory.register(AgentTemplate(name="own", version=version, system_prompt=version))
    assert factory.plan(resolved("x", template="own")).template.version == "2"
    assert factory.plan(resolved("x", template="own"), "1").template.version == "1"
    with pytest.raises(UnknownTemplate, match="has no version '3' here; known: 1, 2"):
        factory.plan(resolved("x", template="own"), "3")


def test_a_version_that_is_registered_again_is_the_newest(factory: AgentFactory) -> None:
    one, two = (AgentTemplate(name="own", version=version) for version in ("1", "2"))
    for template in (one, two, one):
        factory.register(template)
    assert factory.template("own") == one


def test_what_is_retired_is_given_to_no_new_run_and_stays_for_those_that_have_it(
    factory: AgentFactory,
) -> None:
    for version in ("1", "2"):
        factory.register(AgentTemplate(name="own", version=version))
    factory.retire("own", "2")
    assert factory.template("own").version == "1"
    factory.retire("own")
    with pytest.raises(UnknownTemplate, match="no template is called 'own'"):
        factory.plan(resolved("x", template="own"))
    assert factory.plan(resolved("x", template="own"), "2").template.version == "2"
    assert not factory.has("own")
    assert factory.has("own", "1")
    with pytest.raises(UnknownTemplate):
        factory.retire("own")


def test_a_version_that_is_replaced_is_built_anew(factory: AgentFactory) -> None:
    factory.register(AgentTemplate(name="own", system_prompt="Be brief."))
    first = factory.create(factory.plan(resolved("x", template="own")))
    factory.replace(AgentTemplate(name="own", system_prompt="Be kind."))
    assert factory.template("own").system_prompt == "Be kind."
    assert factory.create(factory.plan(resolved("x", template="own"))) is not first


def test_who_listens_hears_of_templates_until_it_ends(factory: AgentFactory) -> None:
    heard: list[tuple[str, ...]] = []
    end = factory.on_change(lambda: heard.append(factory.names))
    factory.register(AgentTemplate(name="own"))
    factory.retire("own")
    end()
    factory.register(AgentTemplate(name="other"))
    built_in = ("chat_agent", "react_agent", "structured_agent")
    assert heard == [("chat_agent", "own", "react_agent", "structured_agent"), built_in]
