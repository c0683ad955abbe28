"""Millstream: an event-driven runtime for LLM agents on Apache Kafka.

The packages are the folders `agents`, `gateway`, `infra`, `middleware`, `schemas` and `streams` of
the repository, linked here: see docs/decisions/0018-one-import-name.md.
"""

__version__ = "0.1.0"
