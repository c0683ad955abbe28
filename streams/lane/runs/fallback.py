"""Which of its models a run asks: the next one, where the one before failed."""

from __future__ import annotations

from dataclasses import replace

import structlog

from millstream.agents.attempt import RunOutcome
from millstream.schemas.runs.errors import ContentUnsupported
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.runs.admission import answered_by
from millstream.streams.lane.runs.doubt import doubt_after
from millstream.streams.lane.runs.run import Run

__all__ = ["ModelChoice"]

_log = structlog.get_logger(__name__)


class ModelChoice:
    """Chooses the models of one lane's runs, by what the worker's circuits know of them.

    A request's own choice has no circuit: it may name any.
    """

    def __init__(self, services: LaneServices) -> None:
        self._services = services

    def choose_first(self, run: Run) -> None:
        """Choose, where it was not done for this run yet."""
        if not run.model_is_chosen:
            run.model_is_chosen = True
            self.choose(run)

    def choose(self, run: Run) -> None:
        """Have the first of a run's models called that is not passed over."""
        run.models_failed.clear()
        run.model_may_recover = False
        models = run.plan.models
        if len(models) > 1:
            own = run.request.model
            model = own or self._services.circuits.first_of(models)
            run.admission = answered_by(run.admission, model)

    def goes_on(self, run: Run, outcome: RunOutcome) -> bool:
        """Have the next model called at once where it is the model that failed; tells if it is."""
        circuits, model, reason = self._services.circuits, run.plan.model, outcome.result.reason
        has_circuit = model != run.request.model
        if outcome.checkpoint is not None and has_circuit:
            circuits.answered(model)
        if not outcome.model_failed:
            return False
        run.model_may_recover |= outcome.retryable
        later = run.plan.models_after
        if not later:
            return False
        code = "" if reason is None else reason.code
        if has_circuit and code == ContentUnsupported.code:
            circuits.not_called(model)  # that it takes no images is no fault of the model
        elif has_circuit:
            circuits.failed(model, for_good=not outcome.retryable, reason=code)
        if run.is_over_by(self._services.clock_ms()) or doubt_after(run, outcome) is not None:
            return False
        if reason is not None:
            run.models_failed[model] = reason
        follower = circuits.first_of(later)
        _log.info(
            "the next model is asked",
            request_id=run.request.request_id,
            failed=model,
            asked=follower,
            reason=None if reason is None else reason.message,
        )
        self._services.metrics.fallbacks.inc()
        run.admission = answered_by(run.admission, follower)
        return True

    def told(self, run: Run, outcome: RunOutcome) -> RunOutcome:
        """Give an outcome that stands, with what became of the models that were asked before."""
        reason = outcome.result.reason
        if reason is None or not run.models_failed:
            return outcome
        before = "; ".join(
            f"{model}: {failed.code}: {failed.message}"
            for model, failed in run.models_failed.items()
        )
        message = f"{reason.message}; before it failed {before}"
        told = reason.model_copy(update={"message": message})
        return replace(outcome, result=outcome.result.model_copy(update={"reason": told}))
