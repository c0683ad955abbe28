"""`/metrics`, `/health/live` and `/health/ready` over HTTP."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from millstream.schemas.errors import Misconfigured
from millstream.streams.telemetry.metrics import MetricsCollector

__all__ = ["Exposition", "Readiness"]


class Readiness:
    """What is not ready and why. Not ready until a first part was reported on."""

    def __init__(self) -> None:
        self._parts: dict[str, str | None] = {}
        self._warnings: tuple[str, ...] = ()

    def set(self, name: str, reason: str | None) -> None:
        """Report on a part: the reason why it is not ready, `None` when it is."""
        self._parts[name] = reason

    def reasons(self) -> dict[str, str]:
        """Give what is not ready and why; empty: ready."""
        if not self._parts:
            return {"process": "it is starting"}
        return {name: reason for name, reason in self._parts.items() if reason is not None}

    def warn(self, warnings: Iterable[str]) -> None:
        """Say what somebody is to know of, ready or not, in place of what was said before."""
        self._warnings = tuple(warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody is to know of, though it makes nothing unready."""
        return self._warnings


if TYPE_CHECKING:
    from millstream.streams.settings import Settings

_STOP_TIMEOUT_S = 2.0


class Exposition:
    """Serves a collector's registry and the process's health at `metrics_host:metrics_port`.

    `/metrics` answers in OpenMetrics or Prometheus text, by `Accept`. `/health/live` answers 200
    while the event loop turns; `/health/ready` answers 200 or 503, as JSON with the reasons and
    with warnings, which do not count for the status.
    """

    def __init__(
        self, settings: Settings, collector: MetricsCollector, readiness: Readiness
    ) -> None:
        self._settings = settings
        self._registry = collector.registry
        self._readiness = readiness
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it answers, once started."""
        host = self._settings.metrics_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises `Misconfigured` if the address cannot be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        # An access log line per scrape says nothing.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_S)
        await runner.setup()
        site = web.TCPSite(runner, self._settings.metrics_host, self._settings.metrics_port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            message = (
                f"cannot serve metrics at {self._settings.metrics_host}:"
                f"{self._settings.metrics_port} ({error}); set {_remedy(error)}"
            )
            raise Misconfigured(message) from error
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; a request on the way has some seconds to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = self._readiness.reasons()
        return web.json_response(
            {"ready": not reasons, "reasons": reasons, "warnings": self._readiness.warnings},
            status=503 if reasons else 200,
        )


def _remedy(error: OSError) -> str:
    if error.errno in {errno.EADDRINUSE, errno.EACCES}:
        return "MILLSTREAM_METRICS_PORT to a free port, or to 0 for any"
    return "MILLSTREAM_METRICS_HOST to an address of this machine, or to 0.0.0.0 for all"
