"""What the chain is asked about a request is what its run will use."""

from __future__ import annotations

import pytest
from langchain_core.tools import StructuredTool

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.middleware.base import RunAccount
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.events import AttemptStarted
from millstream.streams.lane.runs.admission import Admission, admit
from millstream.streams.lane.state.lane_state import LaneState
from tests.harness.agent_runs import resolved

pytestmark = pytest.mark.rule(7)


def admitted(template: str) -> tuple[LaneState, Admission]:
    mail = StructuredTool.from_function(lambda text: text, name="mail", description="Send mail")
    factory = AgentFactory(default_model="scripted", tools=ToolRegistry([*built_in_tools(), mail]))
    factory.register(AgentTemplate(name="clerk", kind="react", tools=("mail",)))
    state = LaneState("chain", build_pipeline(), hands_over=False)
    return state, admit(resolved("x", template=template), state, factory, input_bytes_max=100)


@pytest.mark.parametrize(
    ("template", "begun"), [("clerk", AttemptStarted), ("react_agent", type(None))]
)
def test_an_attempt_has_a_mark_if_its_tools_may_have_effects_though_it_costs_nothing(
    template: str, begun: type[object]
) -> None:
    state, admission = admitted(template)
    assert admission.context is not None
    assert isinstance(state.pipeline.begin(admission.context, RunAccount(), attempt=1000), begun)
