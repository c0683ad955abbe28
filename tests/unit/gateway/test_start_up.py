"""What a command imports: nothing that is slow to import and that it has no use for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.gateway.command_list import COMMANDS
from millstream.gateway.installation import HOME

AGENTS = ("langchain", "langchain_core", "langgraph", "langsmith", "httpx", "httpx2", "openai")
VIEWS = ("redis", "faust", "mode", "opentelemetry", "prometheus_client")
SCREEN = ("prompt_toolkit", "watchfiles", "uvloop")
LOG = ("aiokafka", "pydantic", "pydantic_settings", "structlog", "jsonschema", "yaml", "asyncio")

HEAVY = (*AGENTS, *VIEWS, *SCREEN)
WITH_PRICES = tuple(name for name in HEAVY if name != "httpx2")  # genai-prices loads it

_USER = ("--user", "ada")
_TEMPLATE = "docs/examples/order_support/support.yaml"
_HELP = [[one.name, "--help"] for one in COMMANDS]

RUN = """
import json, sys
from millstream.gateway.__main__ import main
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        codes.append(ended.code)
print(json.dumps([codes, sorted(sys.modules)]))
"""
"""Runs commands one after the other; its last line says how they ended, and what is imported."""


@pytest.mark.parametrize(
    ("commands", "code", "spared"),
    [
        pytest.param([["--version"], ["--help"], []], {0, 2}, (*HEAVY, *LOG), id="list"),
        pytest.param(_HELP, {0}, (*AGENTS, *VIEWS, "prompt_toolkit", "uvloop"), id="help"),
        pytest.param(
            [
                ["submit", "Hi", *_USER],
                ["cancel", "--request", "r", *_USER],
                ["pause", "--request", "r", *_USER],
                ["resume", "--request", "r", *_USER],
                ["drain", "w"],
                ["tail", "results"],
                ["history", *_USER],
                ["topics"],
                ["dead-letters", "list"],
                ["runs", "list"],
                ["runs", "show", "r", *_USER],
            ],
            {6},
            (*HEAVY, "jsonschema"),
            id="kafka",
        ),
        pytest.param(
            [["sessions", "create", "s", *_USER], ["sessions", "list", *_USER]],
            {6},
            (*AGENTS, "faust", "prometheus_client", *SCREEN),
            id="sessions",
        ),
        pytest.param(
            [
                ["templates", "list"],
                ["templates", "apply", _TEMPLATE],
            ],
            {6},
            HEAVY,
            id="templates",
        ),
        # They look at the policy and the chain; the worker that they start is another process.
        pytest.param([["up"], ["demo"]], {6}, WITH_PRICES, id="up"),
    ],
)
def test_a_command_imports_nothing_slow_that_it_does_not_use(
    commands: list[list[str]], code: set[int], spared: tuple[str, ...], tmp_path: Path
) -> None:
    nobody = {"MILLSTREAM_KAFKA": "127.0.0.1:1", "MILLSTREAM_REDIS_URL": "redis://127.0.0.1:1"}
    no_chain = {"MILLSTREAM_CHAIN_CUTS": '["executer"]', "MILLSTREAM_DATA_DIR": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        cwd=HOME,
        env=nobody | no_chain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    codes, imported = json.loads(told.stdout.splitlines()[-1])
    assert len(codes) == len(commands)
    assert set(codes) <= code, told.stderr
    assert [name for name in spared if name in imported] == []
