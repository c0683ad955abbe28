from __future__ import annotations

import re

from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.settings import Settings
from millstream.streams.settings_page import PAGE, settings_page


def test_the_page_is_what_the_settings_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), (
        "stale: run `python -m millstream.streams.settings_page`"
    )


def test_every_setting_has_its_row_and_says_what_it_takes() -> None:
    rows = re.findall(r"^\| `MILLSTREAM_(\w+)` \| .*? \| (.+?) \| ", settings_page(), re.MULTILINE)
    connecting = [name for name in Settings.model_fields if name in ConnectionSettings.model_fields]
    own = [name for name in Settings.model_fields if name not in connecting]
    assert [name.lower() for name, _ in rows] == [*own, *connecting]
