"""Calfkit's echo, run by its own environment: a node that returns at once, without a model.

`python calfkit_echo.py KAFKA REQUESTS RESPONSES WORKERS` answers until SIGTERM. Guarantee: at most
once, the only one that it offers; a request is acknowledged when it is taken. A bare node is the
least that calfkit runs: a tool node does the same and validates arguments, an agent adds a model.

Its envelope is its own, so the line that says it is ready has a request to be copied: `{id}` in
it stands for the request's id.
"""

from __future__ import annotations

import json
import sys

import uvloop
from calfkit.client import Client
from calfkit.models import SessionRunContext, State
from calfkit.models.actions import ReturnCall
from calfkit.models.envelope import Envelope
from calfkit.models.session_context import CallFrame, CallFrameStack, WorkflowState
from calfkit.nodes import NodeDef
from calfkit.provisioning import ProvisioningConfig
from calfkit.worker import Worker


class Echo(NodeDef[str]):  # type: ignore[misc,unused-ignore]
    """Answers with what it was given."""

    async def run(self, ctx: SessionRunContext) -> ReturnCall[State]:
        """Return to whoever called."""
        return ReturnCall[State](state=ctx.state, value=ctx.deps["input"])


def request(requests: str, responses: str) -> dict[str, object]:
    """Give what calfkit's own client would publish."""
    stack = CallFrameStack()
    stack.push(CallFrame(target_topic=requests, callback_topic=responses, frame_id="{id}"))
    envelope = Envelope(
        internal_workflow_state=WorkflowState(call_stack=stack),
        context=SessionRunContext(state=State(), deps={"input": "hello"}),
    )
    headers = {
        "content-type": "application/json",
        "correlation_id": "{id}",
        "x-calf-emitter": "benchmark",
        "x-calf-emitter-kind": "client",
        "x-calf-kind": "call",
        "x-calf-wire": Envelope.WIRE,
    }
    return {"value": envelope.model_dump_json(), "headers": headers}


async def main(kafka: str, requests: str, responses: str, workers: str) -> None:
    """Serve until ended by a signal."""
    client = Client.connect(
        kafka,
        enable_idempotence=True,
        provisioning=ProvisioningConfig(enabled=True),
        logger=None,  # else it writes two lines for each request
    )
    echo = Echo(node_id=f"{requests}-echo", subscribe_topics=[requests])
    worker = Worker(
        client,
        nodes=[echo],
        max_workers=int(workers),
        extra_subscribe_kwargs={"auto_offset_reset": "earliest"},
    )
    print(json.dumps({"request": request(requests, responses)}), flush=True)
    await worker.run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
