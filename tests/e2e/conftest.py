"""What tests of commands share: `millstream up`, once for a module."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.programs import PROJECT, Up, interrupt, line_with, millstream, running_with
from tests.services.running import Services


@pytest_asyncio.fixture(scope="module")
async def up(services: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    """`millstream up` with the demo's policy, an agent with tools, and the scripted model."""
    data = tmp_path_factory.mktemp("up")
    environment = services.variables(
        f"t-{secrets.token_hex(6)}",
        MILLSTREAM_DATA_DIR=str(data),
        MILLSTREAM_DEFAULT_MODEL="scripted",
        MILLSTREAM_SCRIPTED_MODEL="on",
        MILLSTREAM_SESSION_TIMEOUT_S="6",
    )
    # Neither Kafka nor Redis is named: they are found in the data folder.
    names = ("MILLSTREAM_NAMESPACE", "MILLSTREAM_DATA_DIR", "MILLSTREAM_KAFKA_CONFIG")
    client = {name: environment[name] for name in names if name in environment}
    demo = (PROJECT / "docs" / "examples" / "demo-policy.yaml").read_text("utf-8")
    policy = data / "policy.yaml"
    policy.write_text(
        demo.replace("[chat_agent]", "[chat_agent, react_agent], models: [local]"), "utf-8"
    )
    async with millstream(environment, "up", "--policy", str(policy)) as process:
        assert process.stderr is not None
        await line_with(process.stderr, "Millstream runs", 90)
        yield Up(process, client, data / "worker.log")
        stopped = await interrupt(process)
    assert stopped.code == 0, stopped.err
    assert running_with(f"MILLSTREAM_NAMESPACE={client['MILLSTREAM_NAMESPACE']}") == set()
