from __future__ import annotations

import json
from pathlib import Path

from tests.layout import Module, broken, crowded, read_constructors, read_modules, slowest, table


def modules(folder: str, *lines: int) -> list[Module]:
    return [Module(Path(folder, f"m{number}.py"), count) for number, count in enumerate(lines)]


def test_no_folder_module_or_constructor_of_the_source_is_beyond_its_limit() -> None:
    source = read_modules()
    assert [*broken(source), *crowded(read_constructors(source))] == []


def test_what_is_beyond_its_limit_is_told() -> None:
    assert list(broken(modules("a", *[150] * 12))) == []
    assert list(broken(modules("a", *[1] * 13))) == ["a: 13 modules, more than 12"]
    assert list(broken(modules("a", 1, 401, 1))) == ["a/m1.py: 401 lines, more than 400"]
    assert list(broken(modules("a", 200, 1, 200))) == [
        "the median module has 200 lines, more than 150"
    ]


def test_a_constructor_counts_all_its_parameters_but_self(tmp_path: Path) -> None:
    folder = tmp_path / "streams" / "lane" / "base"
    folder.mkdir(parents=True)
    parameters = "self, a, b, c, d, /, e, *, f, g"
    source = "class {name}:\n    def __init__({given}) -> None: ...\n"
    text = source.format(name="Most", given=parameters)
    text += source.format(name="More", given=f"{parameters}, h")
    (folder / "m.py").write_text(text)
    found = read_constructors(read_modules(tmp_path), tmp_path)
    assert [one.parameters for one in found] == [7, 8]
    assert list(crowded(found)) == [
        "streams/lane/base/m.py: More is made from 8 parameters, more than 7"
    ]


def test_the_table_names_the_longest_module_of_each_folder() -> None:
    (_, first, second, every) = table([*modules("a/b", 3, 5), *modules("c", 10)])
    assert first.split() == ["a/b", "2", "8", "m1.py", "5"]
    assert second.split() == ["c", "1", "10", "m0.py", "10"]
    assert every.split() == ["all", "3", "18", "median", "5"]


def test_the_ten_slowest_files_of_the_last_run_are_named(tmp_path: Path) -> None:
    file = tmp_path / "durations.json"
    assert list(slowest(file)) == ["no run of `make test` has left its durations yet"]
    file.write_text(json.dumps({f"f{number}": number / 2 for number in range(12)}))
    total, *longest = slowest(file)
    assert total.split()[:2] == ["33.0", "s"]
    assert [line.split()[-1] for line in longest] == [f"f{number}" for number in range(11, 1, -1)]
