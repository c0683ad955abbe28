from __future__ import annotations

import re

import pytest

from millstream.schemas.documents.contract import event_schemas
from millstream.schemas.documents.reference import reference_page
from millstream.schemas.topics import BASE_TOPICS, TopicSpec

PAGE = reference_page()


@pytest.mark.parametrize("topic", BASE_TOPICS, ids=lambda topic: topic.name)
def test_every_topic_has_its_row(topic: TopicSpec) -> None:
    assert re.search(rf"^\| `{topic.name}` \|.*\| {re.escape(topic.about)} \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", event_schemas())
def test_every_field_of_every_event_has_its_row(name: str) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == list(event_schemas()[name]["properties"])


def test_a_field_says_whether_it_can_be_relied_on() -> None:
    section = PAGE.split("\n## request\n")[1].split("\n## ")[0]
    assert "| `input` | string | required |" in section
    assert "| `template` | string | always |" in section
    assert "| `model` | string | maybe |" in section


def test_a_field_of_many_values_says_what_each_may_be() -> None:
    section = PAGE.split("\n## request\n")[1].split("\n## ")[0]
    assert "maxProperties `32`, each value: string maxLength `1024`" in section
