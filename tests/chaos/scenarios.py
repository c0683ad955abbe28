"""What is done to the platform while requests come in, a function each; moments are by progress."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from redis.asyncio import Redis

from millstream.infra.kafka.node import KafkaNode
from millstream.streams.settings import Settings
from tests.chaos.clients import Clients
from tests.chaos.crew import Crew
from tests.chaos.floods import PARTITIONS, plan_flood, publish_flood
from tests.chaos.ground import MODEL_SERVER, Ground
from tests.chaos.hostile import drill as hostile
from tests.chaos.hostile.judge import read_honest
from tests.chaos.hostile.server import TEMPLATES
from tests.chaos.load import Progress, plan_load, publish
from tests.chaos.model_server import PACE_S
from tests.chaos.outages import drill as away
from tests.chaos.pauses import Commander
from tests.chaos.provider.bill import (
    NOTES,
    came_back_early,
    compare,
    ended_otherwise,
    noted_wrongly,
    read_bill,
)
from tests.chaos.provider.script import STEPS, provider_value
from tests.chaos.provider.script import plan as plan_provider
from tests.chaos.steps import judge as steps
from tests.chaos.steps.script import TEMPLATE, steps_value
from tests.chaos.steps.script import plan as plan_steps
from tests.harness.audit import Asked, ReadWhole, Records
from tests.harness.lanes import read_whole
from tests.harness.worker_process import WORKER

_PAUSES = 40


@dataclass(frozen=True, slots=True)
class Drill:
    """What a scenario works with. It counts what it did in `blows`."""

    settings: Settings
    ground: Ground
    crew: Crew
    progress: Progress
    rng: random.Random
    blows: list[str]
    clients: Clients
    load: tuple[Asked, ...]
    commander: Commander
    sizes: hostile.Sizes

    async def at(self, share: float) -> None:
        """Wait until this share of the requests has a result."""
        await self.progress.reached(int(share * self.progress.wanted))

    async def more(self, requests: int) -> None:
        """Wait until so many further requests have a result."""
        wanted = min(len(self.progress) + requests, self.progress.wanted)
        await self.progress.reached(wanted)

    def moments(self, count: int) -> list[float]:
        """Draw shares of the way at which something happens, in order."""
        return sorted(self.rng.uniform(0.05, 0.9) for _ in range(count))


@dataclass(frozen=True, slots=True)
class Found:
    """What a scenario's own judge has to tell, and what did not hold."""

    told: tuple[str, ...]
    faults: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    """What has a column in the table for scenarios that count it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario: what happens, and what it needs."""

    about: str
    run: Callable[[Drill], Awaitable[None]]
    brokers: int = 1
    workers: tuple[str, ...] = ("a", "b")
    roles: str = "lanes"
    model_pace_s: float = PACE_S
    settings: Mapping[str, int | float] = field(default_factory=dict)
    plan: Callable[[int, random.Random], tuple[Asked, ...]] = plan_load
    publish: Callable[[Settings, Sequence[Asked], Progress], Awaitable[None]] = publish
    templates: tuple[str, ...] = ("chat_agent",)
    model: str = MODEL_SERVER
    program: tuple[str, ...] = WORKER
    judge: Callable[[Drill, Records], Awaitable[Found]] | None = None
    """Looks at what is particular to the scenario; where there is one, no worker may end."""
    read: ReadWhole = read_whole
    """Reads the topics for the audit."""
    limit_s: float = 0.0
    """The least time that it may take, where it does not end by the number of requests."""
    supersedes: bool = True
    """Whether runs may be begun anew; where all end in time, none may."""


async def kills(drill: Drill) -> None:
    """Six SIGKILLs at random; both workers may be down at once."""
    for moment in drill.moments(6):
        await drill.at(moment)
        victim = drill.rng.choice(drill.crew.names)
        drill.blows.append(f"SIGKILL {victim}")
        await drill.crew.kill(victim)


async def flood(drill: Drill) -> None:
    """Two users flood; workers are killed meanwhile."""
    for moment in drill.moments(3):
        await drill.at(moment)
        victim = drill.rng.choice(drill.crew.names)
        drill.blows.append(f"SIGKILL {victim}")
        await drill.crew.kill(victim)


async def pauses(drill: Drill) -> None:
    """Pause, resume and cancel at random; workers are killed meanwhile."""
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(drill.commander.watch_holds())
        troubles = group.create_task(_trouble(drill))
        await kills(drill)
        await troubles
        watcher.cancel()
    pauses, cancelled = drill.commander.pauses, drill.commander.may_be_cancelled
    alone = sum(pause.alone for pause in pauses)
    drill.blows.append(
        f"{alone} requests and {len(pauses) - alone} sessions paused, "
        f"{len(cancelled)} requests asked to be cancelled"
    )


async def _trouble(drill: Drill) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(_PAUSES):
            await drill.at(0.05 + 0.8 * number / _PAUSES)
            group.create_task(drill.commander.trouble())


_SHARE = 2
"""Partitions of each of two workers."""


async def zombies(drill: Drill) -> None:
    """Stop a worker until another has its partitions, and wake it in the midst of that."""
    for moment in (0.1, 0.35, 0.6):
        await drill.at(moment)
        sleeper, other = drill.rng.sample(drill.crew.names, 2)
        opened = {name: drill.crew.opened(name) for name in (sleeper, other)}
        drill.blows.append(f"SIGSTOP {sleeper}")
        drill.crew.stop(sleeper)
        try:
            # All of its share: one lane alone may be what `other` was opening before.
            await drill.crew.opens_more(other, opened[other] + _SHARE - 1)
            await drill.more(20)
        finally:
            drill.crew.wake(sleeper)
        await drill.crew.opens_more(sleeper, opened[sleeper] + _SHARE - 1)


async def scaling(drill: Drill) -> None:
    """Workers come and go by SIGTERM; there is always one."""
    steps = ("+b", "+c", "-a", "+d", "-c", "-b", "+e", "-d")
    for number, step in enumerate(steps):
        await drill.at(0.08 + 0.1 * number)
        drill.blows.append(step)
        if step[0] == "+":
            await drill.crew.start(step[1])
        else:
            await drill.crew.retire(step[1])


async def rolling(drill: Drill) -> None:
    """Each of three workers ends by SIGTERM and is replaced, while clients wait for answers."""
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(drill.crew.names):
            await drill.at(0.1 + 0.25 * number)
            group.create_task(drill.clients.submit())
            group.create_task(drill.clients.read())
            drill.blows.append(f"SIGTERM {name}")
            await drill.crew.retire(name)
            group.create_task(drill.clients.submit())
            await drill.crew.start(name)


async def one_broker(drill: Drill) -> None:
    """Kill the only broker and start it on its data, twice."""
    for moment in (0.2, 0.6):
        await drill.at(moment)
        await _restart(drill, drill.ground.kafka.nodes[0])


async def three_brokers(drill: Drill) -> None:
    """Kill each broker in turn, serve without it for a while, start it again."""
    for moment, node in zip((0.15, 0.4, 0.65), drill.ground.kafka.nodes, strict=True):
        await drill.at(moment)
        drill.blows.append(f"SIGKILL {node.name}")
        await node.kill()
        await drill.more(30)
        await node.start()


async def redis(drill: Drill) -> None:
    """Redis comes back with old data, is killed, comes back empty, loses its keys."""
    server, crew = drill.ground.redis, drill.crew
    await drill.at(0.1)
    await server.stop()  # writes its data down
    await drill.at(0.25)
    drill.blows.append("Redis came back with old data")
    await server.start()
    await crew.kill("a")  # whoever takes over looks for checkpoints there
    await drill.at(0.45)
    drill.blows.append("SIGKILL Redis")
    await server.kill()
    await crew.kill("b")
    await drill.at(0.6)
    await server.start()
    await drill.at(0.8)
    drill.blows.append(f"{await _forget(drill)} keys deleted")
    await crew.kill("a")


async def network(drill: Drill) -> None:
    """One worker's way to the broker is slow, thin, cut until it is taken for dead, and torn."""
    crew, proxy = drill.crew, drill.ground.proxy
    await crew.start("far", kafka=drill.ground.far)
    if proxy.connections == 0:
        crew.faults.append("no connection went through the proxy")
    await drill.at(0.1)
    drill.blows.append("100 ms")
    proxy.latency_s = 0.1
    await drill.at(0.25)
    drill.blows.append("200 kB/s")
    proxy.latency_s, proxy.bytes_per_s = 0.0, 200_000.0
    await drill.at(0.4)
    proxy.heal()
    for share, blow, strike in ((0.5, "cut", proxy.cut), (0.7, "torn", proxy.tear)):
        await drill.at(share)
        drill.blows.append(blow)
        opened = {name: crew.opened(name) for name in ("a", "far")}
        strike()
        try:
            await crew.opens_more("a", opened["a"])
            await drill.more(20)
        finally:
            proxy.heal()
        await crew.opens_more("far", opened["far"])


async def provider(drill: Drill) -> None:
    """Do nothing to workers: it is the provider and the tools that fail."""
    drill.blows.append(f"{len(STEPS)} ways to answer or fail")


async def _judged(drill: Drill, records: Records) -> Found:
    calls = read_bill(drill.ground.model_log)
    bill = compare(calls, records.costs)
    notes = drill.settings.data_dir.glob(f"*/{NOTES}")
    faults = (
        *bill.faults,
        *came_back_early(calls),
        *noted_wrongly(drill.load, notes),
        *ended_otherwise(drill.load, records.results),
    )
    return Found((str(bill),), faults)


async def _judged_outages(drill: Drill, _: Records) -> Found:
    return Found(away.told(drill), away.faults(drill))


async def _judged_steps(drill: Drill, records: Records) -> Found:
    seen = steps.read_seen(drill.ground.model_log)
    journal = await steps.read_journal(drill.settings)
    made = sum(count - 1 for count in seen.times().values())
    told = f"{len(seen.calls)} calls, {made} of them made again; {len(journal)} journalled facts"
    return Found(
        (told,),
        tuple(steps.faults(seen, journal, records)),
        tuple(steps.repeated(seen, journal, records)),
    )


async def _judged_hostile(drill: Drill, _: Records) -> Found:
    told, faults, counted = await hostile.judged(drill)
    return Found(told, faults, counted=counted)


async def _restart(drill: Drill, node: KafkaNode) -> None:
    drill.blows.append(f"SIGKILL {node.name}")
    await node.kill()
    await node.start()


async def _forget(drill: Drill) -> int:
    """Delete all of the namespace's keys; gives how many."""
    client = Redis.from_url(drill.settings.redis_url)
    try:
        deleted = 0
        async for key in client.scan_iter(match=f"{drill.settings.namespace}*", count=500):
            deleted += await client.delete(key)
        return deleted
    finally:
        await client.aclose()


SCENARIOS: dict[str, Scenario] = {
    "kills": Scenario("six SIGKILLs to two workers", kills),
    "flood": Scenario(
        "users who flood, workers killed",
        flood,
        settings={
            "partitions": PARTITIONS,
            "runs_in_flight_max": 24,
            "runs_per_user_max": 6,
            "park_after_s": 0.2,
            "waiting_per_user_max": 20,
        },
        plan=plan_flood,
        publish=publish_flood,
    ),
    "steps": Scenario(
        "agents of some steps, six SIGKILLs to two workers",
        kills,
        templates=(TEMPLATE,),
        model="tests.chaos.steps.server",
        program=("tests.chaos.steps.worker",),
        plan=plan_steps,
        publish=partial(publish, value=steps_value),
        judge=_judged_steps,
    ),
    "pauses": Scenario(
        "paused, resumed, cancelled, killed",
        pauses,
        settings={
            "partitions": 2,
            "runs_in_flight_max": 16,
            "runs_per_user_max": 3,
            "park_after_s": 0.1,
            "parked_max": 60,
            "waiting_per_user_max": 5,
        },
    ),
    "zombies": Scenario("SIGSTOP past the session, SIGCONT", zombies),
    "scaling": Scenario("workers added and removed", scaling, workers=("a",)),
    "rolling": Scenario(
        "three workers replaced one by one",
        rolling,
        workers=("a", "b", "c"),
        model_pace_s=0.08,
        publish=partial(publish, waiting_max=40),
        supersedes=False,
    ),
    "broker": Scenario("the one broker killed, twice", one_broker),
    "brokers": Scenario("each of three brokers killed", three_brokers, brokers=3),
    "redis": Scenario("Redis stale, killed, emptied", redis, roles="lanes,views"),
    "provider": Scenario(
        "a provider and tools that fail in every way",
        provider,
        templates=("*",),
        model="tests.chaos.provider.server",
        program=("tests.chaos.provider.worker",),
        plan=plan_provider,
        publish=partial(publish, value=provider_value),
        judge=_judged,
    ),
    "outages": Scenario(
        "Kafka stopped and frozen, Redis killed, frozen, emptied",
        away.outages,
        roles="lanes,views",
        publish=away.publish_steadily,
        judge=_judged_outages,
        limit_s=away.LIMIT_S,
    ),
    "policies": Scenario(
        "another policy four times, with workers killed and replaced",
        hostile.policies,
        judge=_judged_hostile,
    ),
    "sizes": Scenario(
        "hostile sizes and two changes of policy",
        hostile.sizes,
        templates=TEMPLATES,
        program=("tests.chaos.hostile.worker",),
        model="tests.chaos.hostile.server",
        judge=_judged_hostile,
        read=read_honest,
    ),
    "network": Scenario("slow, thin, cut, torn network", network, workers=("a",)),
}
