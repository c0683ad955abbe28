"""Whether an app is fit to be run, asked of another program: its code is not ours to import."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from millstream.gateway.processes.children import module_command
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.errors import Misconfigured
from millstream.streams.policy_file import load_policy
from millstream.streams.settings import Settings, child_environment

__all__ = ["AppReport", "checked_app"]

_TIME_MAX_S = 120.0


@dataclass(frozen=True, slots=True)
class AppReport:
    """What is in an app. `policy_file` is that of the settings, or else the app's.

    `templates` are all that it can run, `own` those of them that do not come with Millstream.
    """

    templates: tuple[str, ...]
    own: tuple[str, ...]
    policy_file: Path | None


async def checked_app(settings: Settings) -> AppReport:
    """Check the app that the settings name, the policy, and how the chain is cut.

    Raises `Misconfigured` with all mistakes.
    """
    if settings.app is None:
        build_pipeline(load_policy(settings)).split(settings.chain_cuts)
        return AppReport((), (), settings.policy_file)
    process = await asyncio.create_subprocess_exec(
        *module_command("millstream.gateway", "worker", "--check"),
        env=child_environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIME_MAX_S):
            told, why = await process.communicate()
    except TimeoutError:
        message = f"{settings.app}: its check does not end within {_TIME_MAX_S:g} s"
        raise Misconfigured(message) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Misconfigured(why.decode(errors="replace").strip().removeprefix("error: "))
    report = json.loads(told)
    policy = report["policy_file"]
    return AppReport(
        templates=tuple(report["templates"]),
        own=tuple(report["own_templates"]),
        policy_file=None if policy is None else Path(policy),
    )
