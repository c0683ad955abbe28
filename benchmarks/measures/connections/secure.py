"""The engine over TLS and SCRAM-SHA-512, each program a user with its rights, beside plaintext.

Both are as in `engine`: the same worker, on a broker of its own each, round by round in turn. The
client's share of TLS is in the rate, and not in the server's CPU time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measures.engine import engine_side
from benchmarks.programs.client import IN_FLIGHT
from benchmarks.report import Figure
from benchmarks.services import secure_services
from benchmarks.sides import ask_client, median_ratio, side_figures
from millstream.streams.broker.rights.acls import grants
from millstream.streams.broker.rights.granting import grant
from millstream.streams.broker.rights.users import USERS, User
from millstream.streams.settings import Settings

__all__ = ["run"]

PLAINTEXT = "engine_plaintext"
SECURE = "engine_secure"


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure as `engine` does. Raises `RuntimeError` or `subprocess.SubprocessError`."""
    data = settings.data_dir / "secure"
    data.mkdir(parents=True)
    with ExitStack() as stack:
        base, credentials = stack.enter_context(secure_services(data))
        namespace = f"bench-{secrets.token_hex(4)}"
        _grant(base.model_copy(update={"namespace": namespace}), credentials)
        secure = engine_side(
            SECURE, base, stack, namespace=namespace, **_connection(credentials, "worker")
        )
        client = credentials / "client" / "client.properties"
        sides = (
            engine_side(PLAINTEXT, settings, stack),
            replace(secure, kafka=base.kafka, kafka_config=client),
        )
        samples = ask_client(settings, sides, requests=requests)
    for name, one in samples.items():
        yield from side_figures(name, one)
    plain, secured = (samples[name].loads[IN_FLIGHT] for name in (PLAINTEXT, SECURE))
    rates = median_ratio(secured.rate_per_s, plain.rate_per_s)
    yield Figure(f"{SECURE}_rate_over_plaintext", rates, "times")
    cpu = median_ratio(secured.cpu_ms_per_request, plain.cpu_ms_per_request)
    yield Figure(f"{SECURE}_server_cpu_over_plaintext", cpu, "times")


def _connection(credentials: Path, user: str) -> dict[str, Any]:
    own = credentials / user
    return {
        "kafka_config": own / "client.properties",
        "redis_username": user,
        "redis_password_file": own / "redis-password",
    }


def _grant(settings: Settings, credentials: Path) -> None:
    """Give the worker and the client their rights, and the first worker that to create topics."""
    users: tuple[User, ...] = ("client", "worker")
    found = [
        one
        for user in users
        for one in grants(settings, USERS[user], f"User:{user}", optional=True)
    ]
    admin = credentials / "admin" / "client.properties"
    asyncio.run(grant(settings.model_copy(update={"kafka_config": admin}), found))
