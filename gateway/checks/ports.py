"""The ports that a worker listens on."""

from __future__ import annotations

import asyncio
import errno

import aiohttp

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import local_settings

__all__ = ["check_metrics_port"]

_ANSWER_MAX_S = 2.0
_PORT_REMEDY = "set MILLSTREAM_METRICS_PORT to a free port, or to 0 for any"
_HOST_REMEDY = "set MILLSTREAM_METRICS_HOST to an address of this machine, or to 0.0.0.0 for all"


async def check_metrics_port() -> tuple[Finding, ...]:
    """Whether a worker can serve its metrics where the settings say, or one does already."""
    settings = local_settings()
    host, port = settings.metrics_host, settings.metrics_port
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        server = await asyncio.start_server(lambda _reader, _writer: None, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and await _is_worker(f"http://{where}/health/live"):
            told = f"a worker serves {where}; another on this machine needs a port of its own"
            return (Finding("metrics port", "ok", told),)
        is_port = error.errno in {errno.EADDRINUSE, errno.EACCES}
        told = f"{where} cannot be had: {error.strerror or error}"
        remedy = _PORT_REMEDY if is_port else _HOST_REMEDY
        return (Finding("metrics port", "wrong", told, remedy),)
    server.close()
    await server.wait_closed()
    told = f"{where} is free" if port else f"any free one of {host}"
    return (Finding("metrics port", "ok", told),)


async def _is_worker(url: str) -> bool:
    limit = aiohttp.ClientTimeout(total=_ANSWER_MAX_S)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
            answer: object = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
    return isinstance(answer, dict) and "live" in answer
