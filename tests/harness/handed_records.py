"""Steps of users at random, whose records are handed to each owner of a partition in turn."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from millstream.schemas.topics import CONTROL, REQUESTS
from millstream.streams.settings import Settings
from tests.harness.audit import Asked
from tests.harness.lanes import OneLane, Upstream

__all__ = ["HandedRecords"]

USERS = ("ada", "bob", "eve")
SESSIONS = ("s1", "s2")

Record = tuple[Any, dict[str, Any]]


class HandedRecords:
    """The records of a partition, handed again to each owner from the last acknowledged one on."""

    def __init__(
        self,
        settings: Settings,
        program: Upstream,
        seed: int = 0,
        *,
        is_behind: bool = False,
        slow_s: tuple[float, ...] = (0, 0.01, 0.3),
    ) -> None:
        self._requests = settings.topic(REQUESTS.name)
        self._control = settings.topic(CONTROL.name)
        self._slow_s = slow_s
        self._program = program
        self._is_behind = is_behind
        self._chance = random.Random(seed)  # noqa: S311  the same steps for the same seed
        self._sent: dict[str, list[Record]] = {self._requests: [], self._control: []}
        self._acked: Counter[str] = Counter()
        self._paused: set[tuple[str, str]] = set()
        self.asked: list[Asked] = []

    @property
    def requests_made(self) -> int:
        """How many requests were made so far."""
        return len(self._sent[self._requests])

    async def next_step(self, lane: OneLane) -> None:
        """Ask for something, or pause or resume a session."""
        user, session = self._chance.choice(USERS), self._chance.choice(SESSIONS)
        what = self._chance.random()
        if what < 0.1:
            await self._command(lane, "pause", user, session)
            self._paused.add((user, session))
        elif what < 0.2:
            await self._command(lane, "resume", user, session)
            self._paused.discard((user, session))
        else:
            number = self.requests_made
            slow_s = self._chance.choice(self._slow_s)
            request = {
                "user_id": user,
                "session_id": session,
                "request_id": f"r{number}",
                "input": f"slow: {slow_s}; say: {number}",
            }
            self.asked.append(Asked(request["request_id"], user, session, answer=str(number)))
            await self._publish(lane, self._requests, request)

    async def resume_all(self, lane: OneLane) -> None:
        """Resume all sessions that are paused."""
        for user, session in sorted(self._paused):
            await self._command(lane, "resume", user, session)

    def serve_again(self, lane: OneLane) -> None:
        """Hand over what the last owner had not acknowledged, as a consumer group does."""
        for topic, records in self._sent.items():
            for record in records[self._acked[topic] :]:
                lane.serve(*record)

    def lost(self, lane: OneLane) -> None:
        """Take note of what an owner acknowledged."""
        self._acked += lane.acked_of

    async def _command(self, lane: OneLane, name: str, user: str, session: str) -> None:
        value = {"user_id": user, "command": name, "session_id": session}
        await self._publish(lane, self._control, value)

    async def _publish(self, lane: OneLane, topic: str, value: dict[str, Any]) -> None:
        sent = await self._program.publish(value, partition=0, topic=topic)
        self._sent[topic].append((sent, value))
        is_behind = self._is_behind and self._chance.random() < 0.3
        lane.serve(sent, value, is_behind=is_behind)
