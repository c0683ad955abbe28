"""Which models a worker takes to be out of service, by what became of its own calls.

A model that fails again and again would cost each run an attempt before the next model is asked. So
its circuit opens (M. Nygard, "Release It!", 2007): it is passed over, and tried again by one run at
a time. Only models that have another one behind them are passed over; one alone is always asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog

__all__ = ["ModelCircuits"]

FAILURES_MAX: Final = 5
"""So many failures, with no answer in between, open a circuit; one does where no key is let in."""

OPEN_S: Final = 30.0
"""How long a model is passed over, and then between one trial and the next."""

MODELS_MAX: Final = 256
"""Of so many models it is known how they fare: a request may name any."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened_at_s: float | None = None
    is_on_trial: bool = False


class ModelCircuits:
    """The circuits of one worker, by `provider:model`. Closed until there are failures.

    `on_change` is told of a circuit that opens (`True`) or closes.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = monotonic,
        on_change: Callable[[str, bool], None] = lambda _model, _is_open: None,
    ) -> None:
        self._now_s = now_s
        self._on_change = on_change
        self._circuits: OrderedDict[str, _Circuit] = OrderedDict()

    def first_of(self, models: Sequence[str]) -> str:
        """Give the first of these models that is not passed over; the first, if all are.

        To be asked for a run that calls what it gets: the next trial of a model is that run's.
        """
        return next((model for model in models if self._lets_in(model)), models[0])

    def answered(self, model: str) -> None:
        """Take in that a model gave its answer."""
        if self._circuits.pop(model, _Circuit()).opened_at_s is not None:
            _log.warning("a model answers again", model=model)
            self._on_change(model, False)

    def failed(self, model: str, *, for_good: bool, reason: str) -> None:
        """Take in that a model gave none; `for_good`: no later call will fare better by itself."""
        circuit = self._circuits.setdefault(model, _Circuit())
        self._circuits.move_to_end(model)
        if len(self._circuits) > MODELS_MAX:
            forgotten, last = self._circuits.popitem(last=False)
            if last.opened_at_s is not None:
                self._on_change(forgotten, False)
        circuit.failures += 1
        if circuit.opened_at_s is not None and not circuit.is_on_trial:
            return  # a run that began before it opened: the next trial does not wait for that
        if circuit.opened_at_s is not None or for_good or circuit.failures >= FAILURES_MAX:
            if circuit.opened_at_s is None:
                _log.warning("a model is passed over", model=model, for_s=OPEN_S, reason=reason)
                self._on_change(model, True)
            circuit.opened_at_s = self._now_s()
            circuit.is_on_trial = False

    def not_called(self, model: str) -> None:
        """Take in that a run, maybe its trial, did not call a model: the next run is the trial."""
        circuit = self._circuits.get(model)
        if circuit is not None and circuit.opened_at_s is not None and circuit.is_on_trial:
            circuit.opened_at_s = self._now_s() - OPEN_S
            circuit.is_on_trial = False

    def open(self) -> Iterable[str]:
        """Give the models that are passed over."""
        return tuple(
            model for model, circuit in self._circuits.items() if circuit.opened_at_s is not None
        )

    def _lets_in(self, model: str) -> bool:
        circuit = self._circuits.get(model)
        if circuit is None or circuit.opened_at_s is None:
            return True
        if self._now_s() - circuit.opened_at_s < OPEN_S:
            return False
        # The others wait for what becomes of this trial.
        circuit.opened_at_s = self._now_s()
        circuit.is_on_trial = True
        return True
