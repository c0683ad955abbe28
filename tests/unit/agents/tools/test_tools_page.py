"""What the how-to page of tools shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from millstream.agents.tools import ToolRegistry
from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, bench

PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "tools.md").read_text("utf-8")


async def test_the_tools_that_the_page_shows_are_called() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    known: dict[str, Any] = {}
    exec(snippet, known)  # noqa: S102  our page
    registry: ToolRegistry = known["registry"]
    assert registry.names() == ("calculator", "current_time", "look_up", "refund")
    says = calling(("look_up", {"order": "1"}, "c1"), ("refund", {"order": "1"}, "c2"))
    one = bench([says, DONE], known["look_up"], known["refund"])
    assert (await one.run()).result.output == "done"
    looked, refunded = one.model.results(1)
    assert looked.content == '{"order": "1", "state": "sent"}'
    assert str(refunded.content).startswith("refunded 1 of ")
    assert len(known["REFUNDS"]) == 1


def test_the_page_names_each_rule() -> None:
    for name in ("effect", "reconcile", "timeout_s", "ends_run_on_error", "result_bytes_max"):
        assert f"| `{name}` |" in PAGE
