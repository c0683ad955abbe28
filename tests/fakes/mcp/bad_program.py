"""A program that writes to its output what no server made with the SDK does: its argument says."""

from __future__ import annotations

import json
import sys
from typing import Any


def _answer(message: dict[str, Any]) -> None:
    match message["method"]:
        case "initialize":
            result: dict[str, Any] = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "bad", "version": "1"},
            }
        case "tools/list":
            result = {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}
        case _:
            result = {"content": [{"type": "text", "text": "done"}]}
            if message["params"]["arguments"].get("badly"):
                _write_badly(sys.argv[1])
    line = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


def _write_badly(how: str) -> None:
    match how:
        case "prints":
            sys.stdout.write("debug: here I am\n\n[]\n")
            sys.stdout.flush()
        case "no utf-8":
            sys.stdout.buffer.write(b"\xff\xfe\n")
        case "endless line":
            while True:
                sys.stdout.buffer.write(b"x" * 65_536)


if sys.argv[1] == "no greeting":
    sys.stdout.write("hello\n")
    sys.exit(1)
for line in sys.stdin:
    said = json.loads(line)
    if "id" in said:
        _answer(said)
