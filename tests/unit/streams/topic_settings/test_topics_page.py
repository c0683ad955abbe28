"""The page of topics: its examples can be set, and its tables are what the settings hold to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millstream.streams.settings import load_settings
from millstream.streams.topic_settings.checks import VALUES
from millstream.streams.topic_settings.retention import AS_LONG_AS

PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "topics.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_can_be_set(text: str, tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_settings(topics_file=file).topics


def test_each_value_that_may_be_set_has_its_row() -> None:
    table = PAGE[PAGE.index("| value | of |") : PAGE.index("`null` leaves a value")]
    assert set(re.findall(r"`([a-z]+(?:\.[a-z]+)+)`", table)) - {"log.message.timestamp.type"} == {
        *VALUES
    }


def test_each_topic_that_is_kept_as_long_as_another_has_its_row() -> None:
    table = PAGE[PAGE.index("| topic | follows |") : PAGE.index("A topic that follows another")]
    rows = [row.split("|") for row in table.splitlines()[2:] if row]
    told = {
        (topic, other)
        for _, topics, _, least, *_ in rows
        for topic in re.findall(r"`([a-z-]+)`", topics)
        for other in re.findall(r"`([a-z-]+)`", least)
    }
    assert told == {(one.topic.name, one.other.name) for one in AS_LONG_AS}
