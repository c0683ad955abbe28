"""What is said of runs that wait for a version of their template."""

from __future__ import annotations

import structlog

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import Decision
from millstream.schemas.topics import DECISIONS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)
from tests.support import eventually

FIRST, SECOND = (AgentTemplate(name="own", version=version) for version in ("1", "2"))
USERS = ("ada", "bob", "eve")
TOLD = "requests wait for a template that this worker lacks"


async def test_runs_whose_version_is_gone_are_counted_in_one_line_with_what_to_do() -> None:
    world = MemoryLanes().changed(partitions=1)
    async with upstream(world) as program:
        old = lane_services(world, templates=(*BUILT_IN_TEMPLATES, FIRST))
        async with old as services, one_lane(world, services, None) as owner:
            asked = [
                await ask(program, "hang", template="own", user_id=user, request_id=user)
                for user in USERS
            ]
            for one in asked:
                owner.serve(*one)
            await read_topic(world, DECISIONS, Decision, count=3)
        newer = lane_services(world, templates=(*BUILT_IN_TEMPLATES, SECOND))
        async with newer as services, one_lane(world, services, None) as owner:
            # This worker has the name; whom it took over from is gone.
            services.group_templates.tell(("own",), (("own", "2"),))
            with structlog.testing.capture_logs() as lines:
                for one in asked:
                    owner.serve(*one)
                await eventually(lambda: any(one["event"] == TOLD for one in lines))
    (line,) = [one for one in lines if one["event"] == TOLD]
    assert (line["count"], line["template"], line["version"]) == (3, "own", "1")
    assert line["others_have_it"] is False
    assert "`millstream runs list --state lacking`" in line["remedy"]
    assert "runs migrate" in line["remedy"]
