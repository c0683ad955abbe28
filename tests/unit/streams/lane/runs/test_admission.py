"""What the chain is asked about a request is what its run will use."""

from __future__ import annotations

import pytest
from langchain_core.tools import StructuredTool

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.prompt import PromptVariable
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.middleware.base import RunAccount
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.errors import UnknownTemplate
from millstream.schemas.events import AttemptStarted
from millstream.streams.lane.runs.admission import Admission, TemplateRef, admit, refused
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


def test_a_run_keeps_the_version_that_was_decided_on_or_that_an_earlier_stage_had() -> None:
    factory = AgentFactory(default_model="scripted")
    for version in ("1", "2"):
        factory.register(AgentTemplate(name="own", version=version))
    state = LaneState("chain", build_pipeline(), hands_over=False)
    asked = resolved("x", template="own")
    first = admit(asked, state, factory, input_bytes_max=100, version="1")
    assert (first.version, first.made.template_version) == ("1", "1")
    again = admit(asked, state, factory, input_bytes_max=100, decided=first.made)
    assert (again.version, again.is_new) == ("1", False)
    new = admit(resolved("x", request_id="r2", template="own"), state, factory, input_bytes_max=100)
    assert new.made.template_version == "2"
    # A decision of before there were versions names none: the newest, as it was.
    old = first.made.model_copy(update={"template_version": None})
    assert admit(asked, state, factory, input_bytes_max=100, decided=old).version == "2"


def test_what_lacks_its_template_is_not_decided_on_and_can_be_refused() -> None:
    factory = AgentFactory(default_model="scripted")
    state = LaneState("chain", build_pipeline(), hands_over=False)
    asked = resolved("x", template="new")
    lacking = admit(asked, state, factory, input_bytes_max=100, reserved_before_micros=7)
    assert (lacking.lacks, lacking.decision, lacking.refused) == (TemplateRef("new"), None, None)
    assert lacking.reserved_micros == 7
    ended = refused(asked, lacking, UnknownTemplate("no"), state)
    assert (ended.made.admitted, ended.is_new, ended.lacks) == (False, True, None)
    assert ended.refused is not None
    assert ended.refused.code == "unknown_template"


def test_a_request_that_lacks_what_a_prompt_needs_is_rejected_by_name() -> None:
    own = AgentTemplate(
        name="own",
        system_prompt="Help {customer}.",
        prompt_variables={"customer": PromptVariable()},
        permissions=("orders:read",),
    )
    factory = AgentFactory(default_model="scripted", templates=(own,))
    state = LaneState("chain", build_pipeline(), hands_over=False)
    refused = admit(resolved("x", template="own"), state, factory, input_bytes_max=100)
    assert refused.refused is not None
    assert refused.refused.code == "prompt_variable_refused"
    assert "metadata['customer'] is missing" in refused.refused.message
    asked = resolved("x", template="own", metadata={"customer": "Ada"})
    admission = admit(asked, state, factory, input_bytes_max=100)
    assert admission.refused is None
    assert admission.context is not None
    assert admission.context.permissions == ("orders:read",)


def test_inline_media_count_as_input_as_they_stand_in_the_record() -> None:
    factory = AgentFactory(default_model="scripted")
    state = LaneState("chain", build_pipeline(), hands_over=False)
    data = "iVBORw0KGgo="
    image = {"type": "image", "base64": data, "mime_type": "image/png"}
    asked = resolved("é", content=[image, {"type": "text", "text": "ü"}])
    assert admit(asked, state, factory, input_bytes_max=4 + len(data)).plan is not None
    ended = admit(asked, state, factory, input_bytes_max=3 + len(data))
    assert ended.refused is not None
    assert ended.refused.code == "input_too_large"
    assert ended.refused.message.startswith(
        "the input and its content, files in base64, have 16 bytes, more than 15; "
    )
    by_url = resolved("é", content=[{"type": "image", "url": "https://a.org/" + "x" * 500}])
    assert admit(by_url, state, factory, input_bytes_max=2).plan is not None
