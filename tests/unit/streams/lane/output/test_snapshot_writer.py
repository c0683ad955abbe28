"""Snapshots cut exactly: wherever a lane ends, its successor knows what a fold of all knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

import pytest

from millstream.middleware.base import AttemptUsage
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Address, Reason, Usage
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import DECISIONS, SNAPSHOTS
from millstream.streams.broker.memory.partition import StoredRecord
from millstream.streams.lane.runs.attempts import AttemptStarter
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import restore
from millstream.streams.lane.state.snapshot_format import FORMAT, StoredSnapshot, taken_under
from millstream.streams.wire.keys import request_key
from tests import making
from tests.harness.deployment import IDS_MAX, Deployment
from tests.harness.writing_lane import CHUNK_IDS, POLICY, new_state

pytestmark = [pytest.mark.rule(3), pytest.mark.promise("P8")]


@pytest.mark.parametrize("refused_share", [0.0, 0.3], ids=["written", "refused"])
@pytest.mark.parametrize("seed", range(30))
async def test_wherever_a_lane_ends_its_successor_knows_what_a_fold_of_everything_does(
    seed: int, refused_share: float
) -> None:
    deployment = Deployment(seed, snapshot_records=1 + 5 * (seed % 5), refused_share=refused_share)
    used = 0
    for _ in range(6):
        async with deployment.lane() as lane:
            await lane.play(deployment.chance, deployment.chance.randint(5, 80), deployment.clock)
        state, restored = await deployment.restored()
        used += restored.snapshot is not None
        assert state.digests() == (await deployment.folded_whole()).digests()
    assert used >= 1


async def test_what_a_lane_knows_live_is_what_its_successor_restores() -> None:
    deployment = Deployment(1, snapshot_records=20)
    for _ in range(3):
        async with deployment.lane() as lane:
            await lane.play(deployment.chance, 200, deployment.clock)
            await lane.settled()
            live = lane.state.digests()
        state, restored = await deployment.restored()
        assert restored.snapshot is not None
        assert state.digests() == live


async def test_what_a_restore_reads_does_not_grow_with_the_history() -> None:
    deployment = Deployment(2, snapshot_records=50)
    read: list[int] = []
    for _ in range(4):
        async with deployment.lane() as lane:
            await lane.play(deployment.chance, 1500, deployment.clock)
            await lane.settled()
        _, restored = await deployment.restored()
        assert restored.snapshot is not None
        read.append(restored.tail_records)
        # Ids were forgotten, and their chunks with them: on the average a chunk is half full.
        left = sum(left for _, left, _ in restored.snapshot.chunks)
        assert left <= IDS_MAX * 9 / 8
        assert len(restored.snapshot.chunks) <= 2 * left // CHUNK_IDS + 1
        assert len(restored.parts) <= len(restored.snapshot.chunks) + 2
    labels = {"stage": "chain", "partition": "0"}
    window_s = deployment.collector.registry.get_sample_value(
        "millstream_lane_dedup_window_seconds", labels
    )
    assert window_s is not None
    assert 0 < window_s < 86_400
    decisions = deployment.records(DECISIONS)
    assert len(decisions) > 2 * IDS_MAX
    # What is committed while a snapshot is written comes on top of what it is due after.
    assert max(read) < 1000
    parts = deployment.records(SNAPSHOTS)
    chunks = Counter(one.key for one in parts if one.key and b"ids-" in one.key and one.value)
    assert set(chunks.values()) == {1}, "a chunk never changes and is written once"


async def test_after_a_last_snapshot_nothing_is_left_to_fold() -> None:
    deployment = Deployment(3, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 50, deployment.clock)
        await lane.settled()
        live = lane.state.digests()
        await lane.snapshots.close(20)
    state, restored = await deployment.restored()
    assert (restored.tail_records, state.digests()) == (0, live)


async def test_what_a_parked_request_asked_is_known_though_it_ended_behind_the_snapshot() -> None:
    deployment = Deployment(7, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        lane.ask("r1", "u1", deployment.clock())
        request, decision = lane.open["r1"], lane.state.decided
        await lane.settled()
        parked = RunParked(
            user_id="u1",
            request_id="r1",
            session_id="s",
            request=request,
            decision=decision[request_key(request)],
            order=0,
        )
        await lane.writer.commit([parked])
        await lane.snapshots.close(20)
        lane.end("r1", tokens=1, at_ms=deployment.clock())
        await lane.settled()
    state, restored = await deployment.restored()
    assert restored.snapshot is not None
    assert restored.tail_records > 0
    assert state.asked(request_key(request)) == request.digest


async def test_what_a_failed_attempt_was_charged_is_in_a_snapshot() -> None:
    deployment = Deployment(10, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        lane.ask("r1", "u1", deployment.clock())
        request = lane.open["r1"]
        await lane.settled()
        attempts = AttemptStarter(state=lane.state, writer=lane.writer, lost_max=10)
        attempt = lane.state.open_attempts.open[request_key(request)].started.attempt
        used = AttemptUsage(attempt, "local", request.template, Usage(output_tokens=5))
        await attempts.charge(request, used, b"")
        await lane.snapshots.close(20)
        live = lane.state.digests()
    state, restored = await deployment.restored()
    assert restored.tail_records == 0
    (cost,) = state.open_attempts.open[request_key(request)].costs.values()
    assert cost.cost_micros == 5
    assert state.digests() == live


async def test_spend_counts_for_its_day_however_short_ids_are_remembered() -> None:
    deployment = Deployment(11, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 300, deployment.clock)
        await lane.settled()
    whole = await deployment.folded_whole()
    state, _ = await deployment.restored(dedup_window_s=1)
    assert len(state.seen) < len(whole.seen)
    spent = whole.digests()["layers"]
    assert state.digests()["layers"] == spent
    assert new_state(deployment.settings, POLICY).digests()["layers"] != spent


def test_the_snapshots_of_other_stages_on_the_partition_are_not_this_ones() -> None:
    stored = StoredSnapshot("chain")
    for key in (b"executor\x1fheader", b"chain-2\x1fstate-0", None):
        stored.take(StoredRecord("snapshots", 0, 0, 0, key, b"{}"))
    assert stored.parts == frozenset()


async def test_ids_read_back_topic_by_topic_are_forgotten_in_the_order_of_time() -> None:
    deployment = Deployment(8, snapshot_records=1_000_000)
    letter = making.dead_letter(
        reason=Reason(code="not_json", message="no"),
        source=Address(topic="requests", partition=0, offset=1),
        at_ms=deployment.clock(),
    )
    async with deployment.lane() as lane:
        await lane.writer.commit([letter])
        lane.ask("r1", "u1", deployment.clock.tick(2000))
        key = request_key(lane.open["r1"])
        lane.end("r1", tokens=1, at_ms=deployment.clock())
        await lane.settled()
    state, _ = await deployment.restored(dedup_window_s=1)
    assert not state.is_buried(letter.source)
    state, _ = await deployment.restored()
    assert state.is_buried(letter.source)
    state.forget_before(letter.at_ms + 500)
    assert not state.is_buried(letter.source)
    assert state.is_finished(key)


async def test_of_more_users_than_are_remembered_a_restore_keeps_what_a_lane_does() -> None:
    deployment = Deployment(12, snapshot_records=1_000_000)
    letters = [
        making.dead_letter(
            reason=Reason(code="not_json", message="no"),
            source=Address(topic="requests", partition=0, offset=offset),
            at_ms=deployment.clock(),
        )
        for offset in range(10)
    ]
    async with deployment.lane() as lane:
        await lane.writer.commit(letters)
        for number in range(IDS_MAX + IDS_MAX // 8):
            lane.ask(f"r{number}", f"u{number}", deployment.clock.tick(1))
            lane.end(f"r{number}", tokens=1, at_ms=deployment.clock())
        await lane.settled()
        live = lane.state.digests()
        assert not lane.state.is_buried(letters[0].source)
    state, _ = await deployment.restored()
    assert state.digests() == live
    assert not state.is_buried(letters[-1].source)
    assert len(state.seen) == IDS_MAX


async def test_a_flood_of_rejected_requests_leaves_what_ran_known_after_a_restore() -> None:
    policy = Policy.from_yaml(
        """
        roles: {all: {templates: ["*"]}}
        defaults: {roles: [all], rate: unlimited}
        users: {flood: {rate: {requests: 1, window_s: 60}}}
        """,
        "p",
    )
    deployment = Deployment(13, snapshot_records=500)
    async with deployment.lane(policy) as lane:
        for number in range(50):
            lane.ask(f"r{number}", "u1", deployment.clock.tick(1))
            lane.end(f"r{number}", tokens=1, at_ms=deployment.clock())
        ran = [("default", "u1", f"r{number}") for number in range(50)]
        for number in range(3 * IDS_MAX):
            lane.ask(f"f{number}", "flood", deployment.clock.tick(1))
            if number % 100 == 0:
                await lane.settled()
        await lane.settled()
        await lane.snapshots.close(20)
        live = lane.state.digests()
        assert all(lane.state.is_finished(key) for key in ran)
        assert lane.state.seen.forgotten_ms is None
        assert lane.snapshots.taken > 2
    state, restored = await deployment.restored(policy)
    assert restored.snapshot is not None
    assert all(state.is_finished(key) for key in ran)
    assert state.digests() == live
    assert live == (await deployment.folded_whole(policy)).digests()
    more, restored = await deployment.restored(policy, dedup_ids_max=4 * IDS_MAX)
    assert restored.refolded == ("ids",)
    assert more.is_finished(("default", "flood", "f1"))


@pytest.mark.parametrize("other", ["format", "stage that hands over"])
async def test_a_snapshot_that_was_taken_otherwise_is_not_used(other: str) -> None:
    deployment = Deployment(9, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 50, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
    settings, hands_over = deployment.settings, other == "stage that hands over"
    if other == "format":
        state = LaneState("chain", build_pipeline(POLICY), hands_over=False)
        now, before = (
            taken_under(state, settings, snapshot_format=number)["base"].encode()
            for number in (FORMAT, FORMAT - 1)
        )
        deployment.spoil("header", lambda value: value.replace(now, before))
    state = LaneState("chain", build_pipeline(POLICY), hands_over=hands_over)
    now_ms = deployment.clock()
    async with deployment.reader() as reader:
        restored = await restore(state, reader, settings, partition=0, now_ms=now_ms)
    assert restored.snapshot is None
    assert restored.tail_records > 0


@pytest.mark.parametrize("part", ["header", "state-0", "ids-0"])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda _: b"no json",
        lambda value: value[:-20] + b'AAAAAAAAAAAAAAAAAA"}',
        lambda _: b'{"stage": "chain", "partition": 0, "generation": 1, "part": "x", "data": "?"}',
    ],
    ids=["gone", "no-json", "altered", "foreign"],
)
async def test_a_snapshot_that_is_not_whole_is_passed_over_and_replaced(
    part: str, change: Callable[[bytes], bytes | None]
) -> None:
    deployment = Deployment(5, snapshot_records=20)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 300, deployment.clock)
        await lane.snapshots.close(20)
    deployment.spoil(part, change)
    state, restored = await deployment.restored()
    assert restored.snapshot is None
    assert state.digests() == (await deployment.folded_whole()).digests()
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 30, deployment.clock)
        await lane.snapshots.close(20)
    state, restored = await deployment.restored()
    assert restored.snapshot is not None
    assert state.digests() == (await deployment.folded_whole()).digests()


async def test_a_snapshot_of_logs_that_are_not_these_is_passed_over() -> None:
    deployment = Deployment(6, snapshot_records=20)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 100, deployment.clock)
        await lane.snapshots.close(20)
    topic = deployment.settings.topic(DECISIONS.name)
    deployment.broker.delete_topic(topic)
    deployment.broker.create_topic(topic)
    _, restored = await deployment.restored()
    assert restored.snapshot is None


async def test_a_sessions_cancel_counts_longer_than_ids_are_remembered() -> None:
    deployment = Deployment(3, snapshot_records=10_000)
    async with deployment.lane() as lane:
        lane.cancel("s", deployment.clock(), offset=1)
        await lane.settled()
        deployment.clock.tick(2 * deployment.settings.dedup_window_s * 1000)
        lane.ask("r1", "u1", deployment.clock())
        await lane.settled()
        live = lane.state.cancelled.all
    state, restored = await deployment.restored()
    assert restored.snapshot is None
    assert state.cancelled.all == live != ()


async def test_an_earlier_version_passes_over_a_snapshot_that_says_more_than_it_knows() -> None:
    """It looks at `folded_under` alone, and ignores what it does not know: as in a downgrade."""
    deployment = Deployment(9, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 50, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
    header = json.loads(newest(deployment, "header"))["header"]
    before = {
        (3, f"auth=,logging=,cost=,rate_limit={policy.digest}", False, 86_400, IDS_MAX)
        for policy in (POLICY, Policy())
    }
    earlier = {blake2b(repr(one).encode(), digest_size=16).hexdigest() for one in before}
    assert header["folded_under"] not in earlier
    known = {"logs", "state_parts", "state_digest", "chunks", "folded_under"}
    added = {"base", "layers", "dedup_window_s", "dedup_ids_max"}
    assert set(header) == known | added
    assert header["layers"].keys() == {"cost", "rate_limit"}


async def test_a_snapshot_of_an_earlier_version_is_passed_over_and_replaced() -> None:
    deployment = Deployment(9, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 50, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
        live = lane.state.digests()

    def of_before(value: bytes) -> bytes:
        event = json.loads(value)
        for added in ("base", "layers", "dedup_window_s", "dedup_ids_max"):
            del event["header"][added]
        return json.dumps(event).encode()

    deployment.spoil("header", of_before)
    state, restored = await deployment.restored()
    assert restored.snapshot is None
    assert state.digests() == live
    async with deployment.lane() as lane:
        await lane.snapshots.close(20)
        live = lane.state.digests()
    state, restored = await deployment.restored()
    assert restored.snapshot is not None
    assert state.digests() == live


def newest(deployment: Deployment, part: str) -> bytes:
    key = f"chain\x1f{part}".encode()
    found = [one.value for one in deployment.records(SNAPSHOTS) if one.key == key]
    assert found[-1] is not None
    return found[-1]
