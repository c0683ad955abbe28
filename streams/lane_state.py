"""What a lane knows: a fold of what its lanes committed, live and restored by the same code."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeVar

from middleware.pipeline import MiddlewarePipeline
from schemas.base import Event
from schemas.events import (
    AgentResult,
    CostRecorded,
    DeadLetter,
    Decision,
    LaneOpened,
    RequestEvent,
    ResolvedRequest,
    SessionUpdated,
    StageRequest,
)

RequestKey = tuple[str, str, str]
"""Tenant, user and request id: requests are one by these three."""

SessionKey = tuple[str, str, str]
"""Tenant, user and session id."""


def request_key(event: RequestEvent | ResolvedRequest) -> RequestKey:
    """Give what makes a request one and the same."""
    return (event.tenant, event.user_id, event.request_id)


def session_key(event: RequestEvent | ResolvedRequest) -> SessionKey:
    """Give what runs are serial by."""
    return (event.tenant, event.user_id, event.session_id)


@dataclass(slots=True)
class LaneState:
    """The fold of one partition's committed records for one stage of the chain.

    `finished`: requests that this stage is through with, and when; `decided`: decisions on
    requests that are not finished; `buried`: addresses of records that are dead letters, and when
    they became that; `heads`: each session's newest committed checkpoint.
    """

    stage: str
    pipeline: MiddlewarePipeline
    hands_over: bool
    generation: int = 0
    finished: OrderedDict[RequestKey, int] = field(default_factory=OrderedDict)
    decided: dict[RequestKey, Decision] = field(default_factory=dict)
    buried: OrderedDict[str, int] = field(default_factory=OrderedDict)
    heads: dict[SessionKey, SessionUpdated] = field(default_factory=dict)

    def restore(self, event: Event) -> None:
        """Take in a committed record read back from a topic."""
        match event:
            case LaneOpened() if event.stage == self.stage:
                self.generation = max(self.generation, event.generation)
            case Decision():
                self._restore_decision(event)
            case _:
                self.apply(event)
                if isinstance(event, AgentResult | CostRecorded):
                    self.pipeline.fold(event)

    def _restore_decision(self, event: Decision) -> None:
        if event.stage != self.stage:
            return
        self.pipeline.fold(event)
        key = request_key(event)
        if self.hands_over or not event.admitted:
            self._finish(key, event.at_ms)
        elif key not in self.finished:
            self.decided[key] = event

    def apply(self, event: Event) -> None:
        """Take in a record that has just been committed; its pipeline side is folded already."""
        match event:
            case AgentResult():
                self._finish(request_key(event), event.at_ms)
            case StageRequest() if event.stage != self.stage:
                self._finish(request_key(event.request), event.at_ms)
            case DeadLetter():
                self.buried[str(event.source)] = event.at_ms
            case SessionUpdated():
                self.heads[session_key(event)] = event
            case _:
                pass

    def in_order_of_time(self) -> None:
        """Put what was restored topic by topic in the order in which it is forgotten."""
        self.finished = OrderedDict(sorted(self.finished.items(), key=itemgetter(1)))
        self.buried = OrderedDict(sorted(self.buried.items(), key=itemgetter(1)))

    def forget_before(self, at_ms: int) -> None:
        """Forget the finished requests that are older than the window in which ids are one."""
        _drop_before(self.finished, at_ms)
        _drop_before(self.buried, at_ms)

    def _finish(self, key: RequestKey, at_ms: int) -> None:
        self.decided.pop(key, None)
        self.finished[key] = at_ms


KeyT = TypeVar("KeyT")


def _drop_before(times: OrderedDict[KeyT, int], at_ms: int) -> None:
    while times:
        oldest = next(iter(times))
        if times[oldest] >= at_ms:
            return
        del times[oldest]
