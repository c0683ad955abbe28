"""Properties are read as Java reads them, but in UTF-8."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.properties_file import parse_properties, read_properties


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", {"a": "b"}),
        ("a = b", {"a": "b"}),
        ("a: b", {"a": "b"}),
        ("a b c", {"a": "b c"}),
        ("  a=b\r\nc=d\r\n", {"a": "b", "c": "d"}),
        ("# a=b\n!c=d\n\ne=f", {"e": "f"}),
        ("a=b=c;d", {"a": "b=c;d"}),
        ("a=", {"a": ""}),
        ("a", {"a": ""}),
        ("a=1\na=2", {"a": "2"}),
        ("a=one \\\n   two", {"a": "one two"}),
        ("a=ends \\\\\nb=c", {"a": "ends \\", "b": "c"}),
        ("a\\=b=c", {"a=b": "c"}),
        ('a=\\u0041\\n\\t\\"', {"a": 'A\n\t"'}),
        ("pass=schlüssel#1", {"pass": "schlüssel#1"}),
    ],
)
def test_a_property_is_read_as_java_reads_it(text: str, found: dict[str, str]) -> None:
    assert parse_properties(text) == found


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"X: .*none\.properties cannot be read"):
        read_properties(tmp_path / "none.properties", named="X")
