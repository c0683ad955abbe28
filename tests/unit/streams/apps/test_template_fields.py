"""What a template's fields do to a request on its whole way through a lane, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.policy import Policy
from millstream.streams.apps.app import App
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
