"""Rights that a worker lacks are named: as it starts, and when they are taken away."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from structlog.testing import capture_logs

from millstream.schemas.errors import Misconfigured, ServiceUnavailable
from millstream.streams.broker.rights.needed import Resource
from millstream.streams.broker.rights.watch import RightsWatch
from millstream.streams.settings import Settings
from tests.support import eventually

SETTINGS = Settings.model_construct(kafka="broker.example:9093")
GROUP = Resource("group", "millstream-lanes")
EVERYTHING = frozenset({"Read", "Write", "Create", "Describe", "DescribeConfigs"})


class Brokers:
    """Brokers that allow everything but what was taken away."""

    def __init__(self) -> None:
        self.taken: set[Resource] = set()
        self.away = False
        self.asked = 0

    async def __call__(
        self, _settings: Settings, resources: Collection[Resource]
    ) -> Mapping[Resource, frozenset[str] | None]:
        self.asked += 1
        if self.away:
            message = "no broker answers"
            raise ServiceUnavailable(message)
        return {one: frozenset() if one in self.taken else EVERYTHING for one in resources}


async def test_a_worker_that_lacks_a_right_is_told_which_and_how_to_grant_it_as_it_starts() -> None:
    brokers = Brokers()
    brokers.taken.add(GROUP)
    with pytest.raises(Misconfigured, match="no Read on group millstream-lanes") as raised:
        await RightsWatch(SETTINGS, ["lanes"], ask=brokers).require()
    assert (
        "`kafka-acls.sh --bootstrap-server broker.example:9093 --add --allow-principal User:NAME "
        "--operation Read --group millstream-lanes`"
    ) in str(raised.value)


async def test_a_worker_with_views_alone_needs_nothing_of_lanes() -> None:
    brokers = Brokers()
    brokers.taken.add(GROUP)
    await RightsWatch(SETTINGS, ["views"], ask=brokers).require()


async def test_a_right_that_is_taken_away_and_given_back_is_told_once_each() -> None:
    brokers = Brokers()
    watch = RightsWatch(SETTINGS, ["lanes", "views"], ask=brokers)
    with capture_logs() as lines:
        await watch.look()
        brokers.taken.add(GROUP)
        await watch.look()
        await watch.look()
        assert watch.reasons == ("no Read on group millstream-lanes",)
        assert not watch.whole.is_set()
        brokers.away = True
        await watch.look()
        assert watch.reasons == ("no Read on group millstream-lanes",)
        brokers.away, brokers.taken = False, set()
        await watch.look()
    assert watch.reasons == ()
    assert watch.whole.is_set()
    lacks, has = lines
    assert lacks["lacks"] == "no Read on group millstream-lanes"
    assert "--group millstream-lanes" in lacks["grant"]
    assert "that it lacked" in has["event"]


async def test_brokers_are_asked_at_once_when_the_worker_is_not_ready() -> None:
    brokers = Brokers()
    watch = RightsWatch(SETTINGS, ["lanes"], ask=brokers, look_every_s=600, again_after_s=0.01)
    watch.start()
    watch.heed(is_ready=False)
    await eventually(lambda: brokers.asked > 1)
    await watch.stop()
