from __future__ import annotations

import platform

from prometheus_client import generate_latest

from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.telemetry.process import tell_of_process
from millstream.version import __version__


def test_a_worker_tells_of_its_process_and_of_what_runs() -> None:
    collector = MetricsCollector()
    tell_of_process(collector, policy_digest="0f")
    text = generate_latest(collector.registry).decode()
    (built,) = [line for line in text.splitlines() if line.startswith("millstream_build_info{")]
    assert f'version="{__version__}"' in built
    assert f'python="{platform.python_version()}"' in built
    assert built.endswith(" 1.0")
    assert 'millstream_policy_info{digest="0f"} 1.0' in text
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        assert f"\n{name} " in text
    assert "python_gc_collections_total" in text
