"""The topic of templates on real Kafka: two operators at once, and a topic that is deleted."""

from __future__ import annotations

import asyncio

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import TEMPLATES
from millstream.streams.broker.clients import admin_client
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.templates.follower import TemplateFollower
from millstream.streams.templates.registry import TemplateRegistry
from tests.services.users import acting_as
from tests.support import eventually

ONE = AgentTemplate(name="own", system_prompt="You are one.")
OTHER = AgentTemplate(name="own", system_prompt="You are another.")
LATER = AgentTemplate(name="later")


async def test_of_two_operators_at_once_one_is_told_what_the_other_did(settings: Settings) -> None:
    await ensure_topics(settings, (TEMPLATES,))
    outcomes = await asyncio.gather(
        *(
            TemplateRegistry(acting_as(settings, "operator")).apply((one,), by="ada")
            for one in (ONE, OTHER)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Misconfigured) for one in outcomes) == 1, outcomes
    assert len(await TemplateRegistry(acting_as(settings, "operator")).all()) == 1


async def test_a_topic_that_was_deleted_is_followed_again_once_it_is_there(
    settings: Settings,
) -> None:
    await ensure_topics(settings, (TEMPLATES,))
    await TemplateRegistry(acting_as(settings, "operator")).apply((ONE,), by="ada")
    factory = AgentFactory(default_model="scripted")
    follower = TemplateFollower(acting_as(settings, "worker"), factory, MetricsCollector())
    await follower.start()
    try:
        admin = admin_client(settings)
        await admin.start()
        await admin.delete_topics([settings.topic(TEMPLATES.name)])
        await admin.close()
        await ensure_topics(settings, (TEMPLATES,))
        await TemplateRegistry(acting_as(settings, "operator")).apply((LATER,), by="ada")
        await eventually(lambda: factory.has("later"), timeout_s=60)
        assert factory.has("own")
        assert follower.failure is None
    finally:
        await follower.stop()
