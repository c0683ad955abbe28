"""`MetricsCollector`: how code records figures of its own process, on prometheus-client.

A metric is declared where it is used; declaring it again in the same way gives the same one.
Recording never waits. What must survive restarts and count once is an aggregate of topics instead
(`millstream.streams.views.service`).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from millstream.schemas.errors import Misconfigured

__all__ = ["LATENCY_BUCKETS_S", "MetricsCollector", "Timer", "metrics", "set_metrics"]

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_BUCKETS_MAX = 64

MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)
ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Shape:
    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    def __str__(self) -> str:
        labels = ", ".join(self.labels) or "none"
        buckets = f" and buckets {self.buckets}" if self.buckets else ""
        return f"a {self.kind} with labels {labels}{buckets}"


class MetricsCollector:
    """Counters, gauges, histograms and timers in a registry of their own.

    Raises `Misconfigured` for a name that Prometheus does not allow, for the same name declared
    with another type, labels or buckets, and for buckets that do not rise.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._declared: dict[str, tuple[_Shape, Counter | Gauge | Histogram]] = {}

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        """Give a figure that only rises: `.inc(2)`, with labels `.labels(model="x").inc()`."""
        return self._declare(Counter, name, about, _Shape("counter", tuple(labels)))

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        """Give a figure that rises and falls: `.set(3)`, `.inc()`, `.dec()`."""
        return self._declare(Gauge, name, about, _Shape("gauge", tuple(labels)))

    def histogram(
        self,
        name: str,
        about: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float] = LATENCY_BUCKETS_S,
    ) -> Histogram:
        """Give a distribution: `.observe(0.2)`; `buckets` are rising upper bounds."""
        bounds = tuple(float(bound) for bound in buckets)
        if not 1 <= len(bounds) <= _BUCKETS_MAX or any(
            not low < high for low, high in pairwise(bounds)
        ):
            message = f"{name}: buckets must rise, 1 to {_BUCKETS_MAX} of them; they are {bounds}"
            raise Misconfigured(message)
        shape = _Shape("histogram", tuple(labels), bounds)
        return self._declare(Histogram, name, about, shape, buckets=bounds)

    def timer(self, histogram: Histogram, **labels: str) -> Timer:
        """Give a timer that observes seconds: `with`, `async with`, or decorator of either kind.

        A histogram with labels takes all of them here.
        """
        return Timer(histogram.labels(**labels) if labels else histogram)

    def _declare(
        self,
        metric_type: type[MetricT],
        name: str,
        about: str,
        shape: _Shape,
        **options: Any,
    ) -> MetricT:
        # A counter's series end in `_total` whether or not its name does.
        known_as = name.removesuffix("_total") if shape.kind == "counter" else name
        declared = self._declared.get(known_as)
        if declared is not None:
            if declared[0] != shape:
                message = f"{name} is {declared[0]}; it cannot also be {shape}"
                raise Misconfigured(message)
            return cast("MetricT", declared[1])
        try:
            metric = metric_type(name, about, shape.labels, registry=self.registry, **options)
        except ValueError as error:
            message = f"{name} cannot be {shape}: {error}"
            raise Misconfigured(message) from error
        self._declared[known_as] = (shape, metric)
        return metric


class Timer:
    """Observes how long something took, in seconds, also when it failed.

    As a context manager it serves one block at a time; as a decorator any number of calls at once.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._started_s: float | None = None

    def __enter__(self) -> Self:
        """Start; raises `RuntimeError` if it runs already."""
        if self._started_s is not None:
            message = "this timer is running already; ask for one per block"
            raise RuntimeError(message)
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Observe the time since the start."""
        started_s, self._started_s = self._started_s, None
        if started_s is not None:
            self._histogram.observe(time.perf_counter() - started_s)

    async def __aenter__(self) -> Self:
        """Start."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Observe the time since the start."""
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[ParamsT, ResultT]) -> Callable[ParamsT, ResultT]:
        """Time every call of a function or coroutine function."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def timed_async(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> Any:
                with Timer(self._histogram):
                    return await function(*args, **kwargs)

            return cast("Callable[ParamsT, ResultT]", timed_async)

        @functools.wraps(function)
        def timed(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
            with Timer(self._histogram):
                return function(*args, **kwargs)

        return timed


class _Global:
    collector: MetricsCollector | None = None


def metrics() -> MetricsCollector:
    """Give the process's collector, which its root set; raises `Misconfigured` if none did."""
    if _Global.collector is None:
        message = "no metrics collector is set; the program's root calls set_metrics() first"
        raise Misconfigured(message)
    return _Global.collector


def set_metrics(collector: MetricsCollector | None) -> None:
    """Set the process's collector; for the root of the program only."""
    _Global.collector = collector
