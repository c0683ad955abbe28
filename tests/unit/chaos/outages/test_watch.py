"""Which answers of a worker about itself the outage scenario takes for wrong."""

from __future__ import annotations

from tests.chaos.outages.watch import CALM, Sample, judge_ready

AWAY = frozenset({"Kafka stopped"})


def judged(phase: str, since_s: float, status: int) -> list[str]:
    """Judge one sample."""
    return judge_ready([Sample(phase, since_s, "a-1", status, "why")], away=AWAY)


def test_worker_has_some_seconds_to_notice_that_kafka_is_away() -> None:
    assert judged("Kafka stopped", 7, 200) == []
    assert judged("Kafka stopped", 9, 200) == ["a-1 said 200 at Kafka stopped +9 s: why"]
    assert judged("Kafka stopped", 9, 503) == []


def test_worker_has_some_seconds_to_serve_again() -> None:
    assert judged(CALM, 29, 503) == []
    assert judged(CALM, 31, 503)
    assert judged(CALM, 31, 200) == []


def test_worker_is_ready_while_redis_is_away_and_always_answers() -> None:
    assert judged("Redis killed", 1, 200) == []
    assert judged("Redis killed", 1, 503)
    assert judged("Kafka stopped", 1, 0)
