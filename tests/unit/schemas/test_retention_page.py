"""The page of retention: what it says of each topic is what the catalogue has."""

from __future__ import annotations

import re
from pathlib import Path

from millstream.schemas.documents.reference import reference_page
from millstream.schemas.topics import BASE_TOPICS, CHECKPOINTS, DAY_MS, TOKENS, stage_topic

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "retention.md").read_text(encoding="utf-8")

_ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
_REFERENCE_ROW = re.compile(r"^\| `([a-z-]+)` \| \[[^|]+\| [^|]+ \| ([^|]+) \|", re.MULTILINE)


def test_every_topic_has_its_row_with_how_long_it_is_kept() -> None:
    rows = _ROW.findall(PAGE)
    assert [name for name, _ in rows] == [topic.name for topic in BASE_TOPICS]
    assert rows == _REFERENCE_ROW.findall(reference_page())


def test_what_it_reckons_with_is_what_topics_are_made_with() -> None:
    assert "keeps the requests on their way for 1 d" in PAGE
    assert stage_topic("executor").retention_ms == DAY_MS
    for topic in BASE_TOPICS:
        configs = topic.configs()
        if topic.compacted:
            assert (configs["segment.ms"], configs["segment.bytes"]) == ("3600000", "4194304")
            assert configs["max.compaction.lag.ms"] == configs["delete.retention.ms"] == "3600000"
        else:
            assert not {"segment.ms", "segment.bytes"} & configs.keys()
    assert (TOKENS.retention_ms, CHECKPOINTS.retention_ms) == (DAY_MS, 30 * DAY_MS)
    assert "a token of today for 8 days, a checkpoint for 37" in PAGE
