"""Admitting a request: what its run would use, and what the middleware says to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.templates.structured import REPAIR_TOKENS_MAX
from millstream.middleware.base import MiddlewareContext
from millstream.schemas.base import Micros, Reason, Usage, saturated
from millstream.schemas.content import inline_bytes
from millstream.schemas.errors import InputTooLarge, Rejected, UnknownTemplate
from millstream.schemas.events import Decision, ResolvedRequest
from millstream.schemas.reasons import reason_of
from millstream.schemas.sessions.errors import SessionUnknown
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import request_key


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """A template by its name; without a `version`, whichever is the newest.

    `tools` are those of it that a run needs to go on.
    """

    name: str
    version: str | None = None
    tools: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """It in words."""
        version = "" if self.version is None else f", version {self.version!r}"
        tools = f" with {', '.join(self.tools)}" if self.tools else ""
        return f"template {self.name!r}{version}{tools}"


@dataclass(frozen=True, slots=True)
class Admission:
    """A decision and, where the request is admitted, the plan of its run.

    `is_new`: the decision was made now, so it has yet to be committed. `refused` says why there is
    no run: the decision's own reason, or that an admitted request can no longer be planned.
    `context` is what the layers look at, there where the plan is. `reserved_micros` is what this
    stage's decision reserved for the run and those of the stages before it.

    `lacks` is the template that this worker must have before the request can go on. There is
    neither plan nor refusal then, and no `decision` unless it was made before. Where only tools of
    it are lacking, which a run has called, there are both.
    """

    decision: Decision | None
    is_new: bool
    plan: RunPlan | None
    refused: Reason | None
    context: MiddlewareContext | None = None
    reserved_micros: Micros = 0
    lacks: TemplateRef | None = None

    @property
    def made(self) -> Decision:
        """The decision, which was made."""
        assert self.decision is not None  # noqa: S101  what lacks nothing is decided on
        return self.decision

    @property
    def version(self) -> str | None:
        """The version of its template that the run keeps, `None` where none is decided on."""
        if self.plan is not None:
            return self.plan.template.version
        return None if self.lacks is None else self.lacks.version


def answered_by(admission: Admission, model: str) -> Admission:
    """Give the admission of a run that another of its models is to answer."""
    if admission.plan is None or admission.plan.model == model:
        return admission
    context = admission.context and replace(admission.context, model=model)
    return replace(admission, plan=replace(admission.plan, model=model), context=context)


def told_of_repair(admission: Admission) -> Admission:
    """Give the admission of a run whose model is told of an answer to give anew, and reads more."""
    plan, context = admission.plan, admission.context
    if plan is None or context is None or context.input_tokens_max is None:
        return admission
    tokens_max = context.input_tokens_max + REPAIR_TOKENS_MAX * plan.template.run_model_calls_max
    first = context.first_call
    if first is not None:
        first = first + Usage(input_tokens=REPAIR_TOKENS_MAX)
    told = replace(context, input_tokens_max=tokens_max, first_call=first)
    return replace(admission, context=told)


def admit(
    request: ResolvedRequest,
    state: LaneState,
    factory: AgentFactory,
    *,
    input_bytes_max: int,
    reserved_before_micros: Micros = 0,
    decided: Decision | None = None,
    version: str | None = None,
    knows_session: Callable[[], bool] = lambda: True,
) -> Admission:
    """Decide on a request, once: a committed decision stands, whoever works on it after a crash.

    It is `decided`, where a parked request brings it along, or what the lane knows. The run keeps
    the `version` of its template that it is parked with, to which it may have been moved, or that
    an earlier stage had; else the one that the decision names.
    `knows_session` tells whether the user has the session; only the stage of runs knows.
    """
    decided = decided or state.decided.get(request_key(request))
    if version is None and decided is not None:
        version = decided.template_version
    reserved_micros = saturated(
        reserved_before_micros + (decided.reserved_micros if decided else 0)
    )
    try:
        plan = _plan(request, factory, input_bytes_max, version)
        if decided is None:
            _check_session(request, plan, state, knows_session)
    except UnknownTemplate:
        lacks = TemplateRef(request.template, version)
        return Admission(
            decided,
            is_new=False,
            plan=None,
            refused=None,
            reserved_micros=reserved_micros,
            lacks=lacks,
        )
    except Rejected as rejection:
        undecided = Admission(decided, False, None, None, reserved_micros=reserved_micros)
        return refused(request, undecided, rejection, state)
    context = MiddlewareContext(
        request=request,
        now_ms=request.at_ms,
        model=plan.model,
        input_tokens_max=plan.input_tokens_max,
        output_tokens_max=plan.output_tokens_max,
        has_effects=plan.has_effects,
        model_calls_max=plan.model_calls_max,
        models_after=plan.models_after,
        models_beside=plan.models_beside,
        models_own=plan.models_own,
        permissions=plan.template.permissions,
        template_version=plan.template.version,
        first_call=plan.first_call if state.pipeline.reserves_calls else None,
    )
    decision = decided or state.pipeline.decide(
        context, generation=state.generation, stage=state.stage
    )
    return Admission(
        decision,
        is_new=decided is None,
        plan=plan,
        refused=decision.reason,
        context=context,
        reserved_micros=saturated(reserved_before_micros + decision.reserved_micros),
    )


def refused(
    request: ResolvedRequest, admission: Admission, rejection: Rejected, state: LaneState
) -> Admission:
    """Give the admission of a request that can have no plan: no layer is asked about it."""
    decided = admission.decision
    refusal = decided or outcomes.refusal(
        request, rejection, stage=state.stage, generation=state.generation
    )
    return replace(
        admission,
        decision=refusal,
        is_new=decided is None,
        refused=reason_of(rejection),
        lacks=None,
    )


def _check_session(
    request: ResolvedRequest, plan: RunPlan, state: LaneState, knows_session: Callable[[], bool]
) -> None:
    """Refuse to begin a session where the template or the user's policy asks for `create`."""
    asks = f"template {request.template!r} takes"
    if not plan.template.session.create_first:
        if not state.pipeline.session_terms(request.tenant, request.user_id).create_first:
            return
        asks = "the policy lets the user use only"
    if not knows_session():
        # A request that names none has a session of its own id.
        what = (
            "this request names none: create one, and name it"
            if request.session_id == request.request_id
            else f"create {request.session_id!r}, or name another"
        )
        raise SessionUnknown(f"{asks} sessions that were created before; {what}")


def _plan(
    request: ResolvedRequest, factory: AgentFactory, input_bytes_max: int, version: str | None
) -> RunPlan:
    size_bytes = len(request.input.encode())
    told = "the input has"
    if request.content is not None:
        size_bytes += inline_bytes(request.content)
        told = "the input and its content, files in base64, have"
    if size_bytes > input_bytes_max:
        raise InputTooLarge(
            f"{told} {size_bytes} bytes, more than {input_bytes_max}; "
            "shorten it, or raise MILLSTREAM_INPUT_BYTES_MAX on the workers"
        )
    return factory.plan(request, version)
