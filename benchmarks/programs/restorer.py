"""Restores a lane once, in a process whose memory is its own, and says what that took.

`python -m benchmarks.programs.restorer SETTINGS POLICY UPTO` takes JSON: the settings, the policy,
and the offsets up to which topics are read (`{}`: to their ends). Prints JSON: `records` that were
read, `tail_records` of them behind the snapshot or for what was folded anew, `refolded`, whether it
began `by_snapshot`, `seconds` and `cpu_s` of the restore, memory in MiB `before_mib` it, at the
`peak_mib` and `after_mib`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from millstream.agents.executor import wall_clock_ms
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import restore
from millstream.streams.lane.state.seen_ids import SeenIds
from millstream.streams.settings import Settings
from millstream.streams.telemetry.logs import configure_logging

_PAGES_PER_MIB = 256


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages / _PAGES_PER_MIB


async def _restored(settings: Settings, policy: Policy, upto: dict[str, int]) -> dict[str, object]:
    reader = PartitionReader(settings)
    await reader.start()
    seen = SeenIds(ids_max=settings.dedup_ids_max)
    state = LaneState("chain", build_pipeline(policy), hands_over=False, seen=seen)
    before_mib, began, cpu = _resident_mib(), time.perf_counter(), time.process_time()
    now_ms = wall_clock_ms()
    restored = await restore(state, reader, settings, partition=0, now_ms=now_ms, upto=upto or None)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    await reader.stop()
    return {
        "records": restored.records,
        "tail_records": restored.tail_records,
        "refolded": restored.refolded,
        "by_snapshot": restored.snapshot is not None,
        "seconds": took_s,
        "cpu_s": cpu_s,
        "before_mib": before_mib,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "after_mib": _resident_mib(),
    }


def main() -> None:
    """Restore, and print what it took."""
    settings = Settings.model_validate_json(sys.argv[1])
    configure_logging(settings.model_copy(update={"log_level": "warning"}))
    policy = Policy.model_validate_json(sys.argv[2])
    print(json.dumps(asyncio.run(_restored(settings, policy, json.loads(sys.argv[3])))))


if __name__ == "__main__":
    main()
