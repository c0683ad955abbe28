from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.harness.mcp import official_program

PAGE = Path(__file__).resolve().parents[4] / "docs/how-to/mcp.md"


async def test_the_pages_snippets_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    snippets = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102  it is what the page shows
    assert [one.name for one in names["servers"]] == ["orders", "billing"]
    assert names["template"].tools == ("orders.lookup", "billing.*")
    ((name, problem, tools),) = await names["with_servers"](
        [official_program(tmp_path / "log")], {}
    )
    assert (name, problem) == ("orders", None)
    assert "orders_lookup" in tools
