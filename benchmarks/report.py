"""How figures are printed: one line each, and one line that says whether the bar was met."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Figure", "bar", "percentile"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `target` is its bar, `at_most` whether the bar is an upper one."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False

    def show(self) -> bool:
        """Print `FIGURE name value unit`, and its bar if it has one; give whether that was met."""
        print(f"FIGURE {self.name} {self.value:.3f} {self.unit}", flush=True)
        if self.target is None:
            return True
        return bar(self.name, self.value, self.target, at_most=self.at_most)


def bar(name: str, value: float, target: float, *, at_most: bool = False) -> bool:
    """Print `BAR name value target met|missed`; give whether it was met.

    `value` must reach `target`, or with `at_most` not go past it.
    """
    met = value <= target if at_most else value >= target
    print(f"BAR {name} {value:.3f} {target:g} {'met' if met else 'missed'}", flush=True)
    return met


def percentile(values: list[float], percent: float) -> float:
    """Give the value below which `percent` of them lie (nearest rank). `values` is not empty."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]
