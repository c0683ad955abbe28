"""What is known of a worker's process: its build, policy, CPU, memory, open files, collections."""

from __future__ import annotations

import platform
from importlib import metadata

from prometheus_client import GCCollector, ProcessCollector

from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.version import __version__

__all__ = ["tell_of_process"]


def tell_of_process(collector: MetricsCollector, *, policy_digest: str) -> None:
    """Have a collector tell of this process: `process_*`, `python_gc_*`, its build, its policy."""
    ProcessCollector(registry=collector.registry)
    GCCollector(registry=collector.registry)
    about = "1, with what runs as labels: versions of Millstream, Python, LangChain and aiokafka."
    versions = {
        "version": __version__,
        "python": platform.python_version(),
        "langchain": metadata.version("langchain"),
        "aiokafka": metadata.version("aiokafka"),
    }
    gauge = collector.gauge("millstream_build_info", about, tuple(versions))
    gauge.labels(**versions).set(1)
    policy = collector.gauge(
        "millstream_policy_info", "1, with the digest of the worker's policy as label.", ("digest",)
    )
    policy.labels(digest=policy_digest).set(1)
