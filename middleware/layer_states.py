"""What a snapshot holds of a chain's layers, each by itself, and which of them it serves later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from millstream.middleware.base import AgentMiddleware
from millstream.middleware.containment import asked, told
from millstream.schemas.base import Event

__all__ = ["LayerStates", "folding"]


class LayerStates:
    """The states of the layers that fold, by the layers' names."""

    def __init__(self, layers: Iterable[AgentMiddleware]) -> None:
        self._layers = tuple(layer for layer in layers if layer.folds)

    @property
    def folded_under(self) -> dict[str, str]:
        """Give what each layer's folding goes by besides the events, of those that give state."""
        return {layer.name: _under(layer) for layer in self._layers if _gives(layer)}

    def given(self) -> dict[str, Any]:
        """Give what each layer has folded so far, as values for JSON."""
        return {layer.name: layer.state() for layer in self._layers if _gives(layer)}

    def load(
        self, states: Mapping[str, Any], folded_under: Mapping[str, str]
    ) -> tuple[AgentMiddleware, ...]:
        """Take in what `given` gave, through JSON, before anything is folded.

        `folded_under` is what the layers went by then. Gives those that it does not serve, which
        are to fold their histories: new ones, those that go by something else, and those that give
        no state. What it holds of layers that are no more is passed over.
        """
        anew: list[AgentMiddleware] = []
        for layer in self._layers:
            under = folded_under.get(layer.name)
            if under is not None and layer.name in states and _serves(layer, states, under):
                layer.load(states[layer.name])
            else:
                anew.append(layer)
        return tuple(anew)


def folding(layer: AgentMiddleware) -> Callable[[Event], None]:
    """Give what folds an event into one layer; what that raises is logged."""
    return lambda event: told(layer, partial(layer.fold, event))


def _gives(layer: AgentMiddleware) -> bool:
    """Tell whether a layer gives its state; else only its history restores it."""
    return type(layer).state is not AgentMiddleware.state


def _under(layer: AgentMiddleware) -> str:
    return str(layer.folded_under)  # an app's code may give another value than a text


def _serves(layer: AgentMiddleware, states: Mapping[str, Any], under: str) -> bool:
    if not _gives(layer):
        return False
    if under == _under(layer):
        return True
    ask = partial(layer.can_load, states[layer.name], under)
    return asked(layer, bool, ask, lambda _: None) is True
