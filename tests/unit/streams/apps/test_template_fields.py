"""What a template's fields do to a request on its whole way through a lane, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware

from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.errors import Misconfigured
from millstream.streams.apps.app import App
from millstream.streams.apps.checks import parts_of
from millstream.streams.apps.memory import InMemoryApp, arun_agent

POLICY = Policy.from_yaml(
    """
    roles:
      reader: {templates: [own]}
      clerk: {permissions: ["orders:*"]}
    users: {ada: {roles: [reader, clerk]}, bob: {roles: [reader]}}
    prices: {scripted: {input_usd_per_mtok: 1000, output_usd_per_mtok: 1000}}
    """,
    "policy.yaml",
)


def app(**fields: Any) -> App:
    return App("own", templates=[AgentTemplate.model_validate({"name": "own", **fields})])


@pytest.mark.parametrize(
    ("user", "metadata", "ends"),
    [
        ("ada", {"customer": "Ada"}, ""),
        (
            "bob",
            {"customer": "Bob"},
            "forbidden: user 'bob', whose roles are reader, lacks",
        ),
        ("ada", {}, "prompt_variable_refused: the template's system prompt needs it: metadata['cu"),
    ],
)
async def test_a_request_needs_the_permissions_and_the_variables_of_its_template(
    user: str, metadata: dict[str, str], ends: str
) -> None:
    one = app(
        system_prompt="Help {customer}.",
        prompt_variables={"customer": {}},
        permissions=["orders:read"],
    )
    run = await arun_agent(one, "own", "hi", policy=POLICY, user=user, metadata=metadata)
    assert run.status == ("rejected" if ends else "completed")
    assert run.reason.startswith(ends)
    assert len(run.costs) == (0 if ends else 1)


async def test_a_middleware_of_a_yaml_template_is_asked(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nmiddlewares: [{name: pii, params: {pii_type: email}}]\n"
    )
    one = App("own", templates=[tmp_path / "own.yaml"])
    run = await arun_agent(one, "own", "I am ada@example.org")
    assert run.output == "I am [REDACTED_EMAIL]"
    assert "".join(token.text for token in run.tokens) == run.output


@pytest.mark.promise("P5")
async def test_a_summary_has_a_cost_record_of_its_own_within_what_was_reserved() -> None:
    memory = {"strategy": "summary", "tokens_max": 200, "summary_tokens_max": 60}
    async with InMemoryApp(app(memory=memory), policy=POLICY) as running:
        for number in range(4):
            run = await running.run("own", f"{number} {'x ' * 60}", user="ada", session_id="s")
            assert run.status == "completed"
            assert run.decision is not None
            assert run.result.cost_micros <= run.decision.reserved_micros
    assert [cost.call for cost in run.costs] == [0, 1]
    assert run.result.cost_micros == sum(cost.cost_micros for cost in run.costs)
    # The summary, which a scripted model makes of the prompt, is no part of the answer.
    assert run.output == f"3 {'x ' * 60}"


class Polite(AgentMiddleware[Any, Any, Any]):
    """One of an app's own."""

    def __init__(self, words: str = "please") -> None:
        super().__init__()
        self.words = words

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        last = request.messages[-1]
        asked = last.model_copy(update={"content": f"{last.text}, {self.words}"})
        return await handler(request.override(messages=[*request.messages[:-1], asked]))


def polite(**params: Any) -> AgentTemplate:
    named = {"name": "polite", "params": params}
    return AgentTemplate.model_validate({"name": "own", "middlewares": [named]})


async def test_an_app_gives_middlewares_that_its_templates_name() -> None:
    one = App("own", templates=[polite(words="now")], agent_middlewares={"polite": Polite})
    run = await arun_agent(one, "own", "go")
    assert run.output == "go, now"


def test_mistakes_in_an_apps_middlewares_are_told_with_their_field() -> None:
    given: dict[str, Any] = {"polite": Polite, "pii": Polite, "odd": 7}
    with pytest.raises(Misconfigured) as refused:
        parts_of(App("own", templates=[polite(wrods="x")], agent_middlewares=given))
    told = str(refused.value)
    for words in (
        "agent_middlewares['pii']: the name of the app's middleware 'pii' is taken by LangChain's",
        "agent_middlewares['odd']: must make a middleware, a class for instance, not 7",
        "templates[0] 'own': template 'own': the middleware 'polite' cannot be made with its para",
    ):
        assert words in told
    with pytest.raises(Misconfigured, match="agent_middlewares: must be a dict"):
        parts_of(App("own", agent_middlewares=[Polite]))  # type: ignore[arg-type]
