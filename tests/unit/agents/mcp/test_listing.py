from __future__ import annotations

from typing import Any

from mcp import types

from millstream.agents.mcp.listing import Listing, listing_of
from millstream.agents.mcp.server import McpServer

OBJECT: dict[str, Any] = {"type": "object", "properties": {}}


def tool(name: str, schema: dict[str, Any] | None = None, **fields: Any) -> types.Tool:
    return types.Tool(name=name, inputSchema=OBJECT if schema is None else schema, **fields)


def listed(*tools: types.Tool, **fields: Any) -> Listing:
    return listing_of(McpServer(name="orders", command="a", **fields), tools)


def names(listing: Listing) -> list[str]:
    return [one.name for one in listing.tools.values()]


def test_a_name_is_one_that_every_provider_takes() -> None:
    listing = listed(tool("get.it/now"), tool("plain"))
    assert names(listing) == ["orders_get_it_now", "orders_plain"]
    assert names(listed(tool("get.it/now"), prefix=False)) == ["get_it_now"]


def test_two_names_that_run_into_each_other_are_both_left_out_in_whatever_order() -> None:
    for tools in ((tool("a.b"), tool("a_b"), tool("c")), (tool("c"), tool("a_b"), tool("a.b"))):
        listing = listed(*tools)
        assert names(listing) == ["orders_c"]
        assert len(listing.problems) == 2
        assert "two tools would be called 'orders_a_b'" in listing.problems[0]


def test_a_name_that_is_too_long_is_left_out_and_not_cut_to_anothers() -> None:
    listing = listed(tool("x" * 60))
    assert names(listing) == []
    assert "more than 64 characters" in listing.problems[0]


def test_what_is_not_asked_for_is_not_offered() -> None:
    assert names(listed(tool("get_a"), tool("put_a"), tools=("get_*",))) == ["orders_get_a"]


def test_tools_beyond_the_bound_are_left_out_and_told() -> None:
    listing = listed(*(tool(f"t{number}") for number in range(5)), tools_max=3)
    assert len(listing.tools) == 3
    assert listing.problems == ("it lists more than 3 tools: the others are left out",)


def test_a_schema_that_is_none_or_too_large_leaves_out_its_tool_alone() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    listing = listed(
        tool("fine"),
        tool("large", {"type": "object", "description": "x" * 40_000}),
        tool("wrong", {"type": "object", "properties": 5}),
        tool("list", {"type": "array"}),
        tool("deep", deep),
    )
    assert "orders_fine" in names(listing)
    assert not {"orders_large", "orders_wrong", "orders_list"} & set(names(listing))
    assert len(listing.problems) >= 3


def test_a_description_is_cut_and_half_a_surrogate_pair_replaced() -> None:
    listing = listed(tool("a", description="é" * 5000), tool("b", description="x\ud800"))
    first, second = listing.tools.values()
    assert len(first.description.encode()) < 4200
    second.description.encode()


def test_arguments_that_langchain_keeps_for_itself_get_another_name() -> None:
    schema = {
        "type": "object",
        "properties": {"args": {}, "args_": {}, "_private": {}, "config": {}, "a": {}},
        "required": ["args", "a"],
    }
    (offered,) = listed(tool("a", schema)).tools.values()
    assert set(offered.schema["properties"]) == {"args__", "args_", "private_", "config_", "a"}
    assert offered.schema["required"] == ["args__", "a"]
    assert offered.arguments == {"args__": "args", "private_": "_private", "config_": "config"}


def test_another_schema_or_effect_is_another_tool_and_other_words_are_not() -> None:
    def digest(one: types.Tool, **fields: Any) -> str:
        (offered,) = listed(one, **fields).tools.values()
        return offered.digest

    plain = digest(tool("a"))
    assert digest(tool("a", description="other words")) == plain
    assert digest(tool("a", {"type": "object", "required": ["x"]})) != plain
    reads = tool("a", annotations=types.ToolAnnotations(readOnlyHint=True))
    assert digest(reads) == plain
    assert digest(reads, trusted=True) != plain


def test_a_glob_means_tools_by_either_name() -> None:
    listing = listed(tool("get.a"), tool("get.b"), tool("put"))
    assert listing.matching("get.*") == ("orders_get_a", "orders_get_b")
    assert listing.matching("orders_put") == ("orders_put",)
    assert listing.matching("*") == ("orders_get_a", "orders_get_b", "orders_put")
