"""The scenarios: changes of policy, and hostile sizes, in the middle of an honest load."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEAD_LETTERS, RESULTS
from tests.chaos.hostile.judge import Outcome, outcomes, unaccounted
from tests.chaos.hostile.records import KINDS, Sent, send
from tests.chaos.hostile.server import CHARACTERS, CONTROL_TEXT, LONG, TEMPLATES
from tests.chaos.load import HOSTILE, policy_for, publish_one, request_value
from tests.harness.audit import Asked
from tests.harness.lanes import read_whole

if TYPE_CHECKING:
    from tests.chaos.scenarios import Drill

__all__ = ["SIZES", "Sizes", "judged", "policies", "sizes"]

SIZES = (*KINDS, CHARACTERS)
"""The hostile sizes by name; the last one is the answer to a request like any other."""

PEAK_MIB_MAX = 600.0
"""What a worker may hold at its most, whatever comes: half of it is what it holds in any case."""

_MOMENTS = (0.15, 0.4, 0.65)
_CHANGES_AT = (0.15, 0.35, 0.55, 0.75)
_ACCOUNTED_S = 45.0
_LOOK_EVERY_S = 2.0


@dataclass(slots=True)
class Sizes:
    """Which hostile sizes are wanted, and what came of it.

    `sent` are those that were written, `policies` is how often the policy was changed.
    """

    wanted: tuple[str, ...]
    sent: list[Sent] = field(default_factory=list)
    policies: int = 0


async def policies(drill: Drill) -> None:
    """Give all workers another policy, one worker after the other, four times."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(drill.crew.watch_memory())
        for moment in _CHANGES_AT:
            await drill.at(moment)
            await _change_policy(drill)
        watching.cancel()


async def sizes(drill: Drill) -> None:
    """Send each hostile size three times; workers start anew behind and among them."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(drill.crew.watch_memory())
        for number, moment in enumerate(_MOMENTS):
            await drill.at(moment)
            for kind in drill.sizes.wanted:
                await _strike(drill, kind, number)
            if number < len(_MOMENTS) - 1:
                await _change_policy(drill)
        # Whoever ends now leaves what it has not read to nobody.
        await drill.at(1.0)
        await _accounted(drill)
        watching.cancel()


async def _strike(drill: Drill, kind: str, number: int) -> None:
    victim = drill.rng.choice(drill.load).user_id
    drill.blows.append(kind)
    if kind == CHARACTERS:
        name = f"{CHARACTERS}-{number}"
        one = Asked(name, victim, name, answer=CONTROL_TEXT)
        drill.clients.asked.append(one)
        await publish_one(drill.settings, one, _of_long_answers)
        return
    request_id = f"{HOSTILE}{kind}-{number}"
    drill.sizes.sent.append(await send(drill.settings, kind, victim, request_id))


def _of_long_answers(one: Asked) -> bytes:
    return json.dumps({**json.loads(request_value(one)), "template": LONG}).encode()


async def _change_policy(drill: Drill) -> None:
    """Write another policy, then kill or replace each worker: all of them are to have it."""
    changed = drill.sizes.policies = drill.sizes.policies + 1
    path = drill.settings.policy_file
    assert path is not None
    policy = policy_for(drill.load, TEMPLATES, changes=changed)
    await asyncio.to_thread(path.write_text, policy, encoding="utf-8")
    for name in drill.crew.names:
        if drill.rng.randrange(2):
            drill.blows.append(f"policy {changed}, SIGKILL {name}")
            await drill.crew.kill(name)
        else:
            drill.blows.append(f"policy {changed}, SIGTERM {name}")
            await drill.crew.retire(name)
            await drill.crew.start(name)


async def _accounted(drill: Drill) -> None:
    """Wait until something tells of each hostile record, but for no longer than 45 s."""
    for _ in range(int(_ACCOUNTED_S / _LOOK_EVERY_S)):
        if not list(unaccounted(await _outcomes(drill))):
            return
        await asyncio.sleep(_LOOK_EVERY_S)  # noqa: TID251  topics are read whole each time


async def _outcomes(drill: Drill) -> list[Outcome]:
    letters = await read_whole(drill.settings, DEAD_LETTERS, DeadLetter)
    results = await read_whole(drill.settings, RESULTS, AgentResult)
    return outcomes(drill.sizes.sent, letters, results)


async def judged(drill: Drill) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]]:
    """Tell what became of hostile records, name what did not hold, and give what was counted."""
    found = await _outcomes(drill)
    sent = Counter(one.sent.kind for one in found)
    buried = Counter(one.sent.kind for one in found if one.letters)
    answered = Counter(one.sent.kind for one in found if one.results)
    peak_mib = drill.crew.peak_mib
    told = (
        *(f"{kind}: {sent[kind]} sent, {buried[kind]} buried, {answered[kind]} answered"
          for kind in sent),
        f"a worker held {peak_mib:.0f} MiB at its most",
    )  # fmt: skip
    too_much = (f"a worker held {peak_mib:.0f} MiB, more than {PEAK_MIB_MAX:.0f}",)
    counted = {
        "policies": drill.sizes.policies,
        "hostile": len(found) + sum(one.answer == CONTROL_TEXT for one in drill.clients.asked),
        "buried": sum(one.letters > 0 for one in found),
    }
    return told, (*unaccounted(found), *too_much * (peak_mib > PEAK_MIB_MAX)), counted
