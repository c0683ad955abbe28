"""From an app's name to the app, or to words that say what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream import App
from millstream.schemas.errors import Misconfigured
from millstream.streams.apps.loading import load_app
from millstream.streams.apps.name import AppName


@pytest.fixture(autouse=True)
def _modules_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    path, modules = sys.path.copy(), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def loaded(name: str, **limits: float) -> App:
    return load_app(AppName.parse(name), **limits)


APP = "from millstream import App\napp = App('orders')\n"


@pytest.mark.parametrize(
    "name",
    ["shop/app.py", "shop.app", "shop.app:app", "shop/app.py:app", "./shop/app.py", "shop"],
)
def test_an_app_of_a_package_is_found_by_file_and_by_module(name: str) -> None:
    write("shop/__init__.py", "")
    write("shop/app.py", APP)
    assert loaded(name).name == "orders"
    assert "shop.app" in sys.modules


def test_a_file_in_no_package_is_a_module_by_itself_and_imports_its_neighbour() -> None:
    write("lone/names.py", "NAME = 'lone'")
    write("lone/lone_app.py", "from millstream import App\nimport names\nmine = App(names.NAME)")
    assert loaded("lone/lone_app.py").name == "lone"
    assert loaded("lone/lone_app.py:mine").name == "lone"


def test_a_file_is_told_by_its_whole_path_so_that_it_is_found_from_every_folder() -> None:
    file = write("shop/app.py", APP)
    assert str(AppName.parse("shop.app:app")) == f"{file.absolute()}:app"
    assert AppName.parse(f"{file.absolute()}:app").folder == file.parent.absolute()
    assert str(AppName.parse("installed.somewhere:app")) == "installed.somewhere:app"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def", "shop/app.py:1: invalid syntax"),
        ("import nothing_like_it", "shop/app.py:1: it does not import: ModuleNotFoundError: No mo"),
        ("\n\n1 / 0", "shop/app.py:3: it does not import: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "shop/app.py:2: it does not import: SystemExit: 3"),
        ("raise GeneratorExit", "shop/app.py:1: it does not import: GeneratorExit"),
        ("import json\njson.loads('{')", "shop/app.py:2: it does not import: JSONDecodeError: "),
        ("", "shop/app.py: there is no app in it: write `app = App(…)`"),
        ("app = 7", "shop/app.py: there is no app in it: write `app = App(…)`"),
        (
            f"{APP}one = App('1')\ntwo = App('2')\ndel app",
            "shop/app.py: there is no app called 'app'; there are `shop/app.py:one`, `shop/",
        ),
    ],
)
def test_what_does_not_import_is_told_with_file_and_line(text: str, told: str) -> None:
    write("shop/__init__.py", "")
    write("shop/app.py", text)
    with pytest.raises(Misconfigured) as raised:
        loaded("shop/app.py")
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shop/ap.py", "there is no app at shop/ap.py: no file shop/ap.py in /"),
        (
            "shop/app.py:mine",
            "shop/app.py: there is no app called 'mine'; there are `shop/app.py:app`",
        ),
        ("shop/app.py:App", "shop/app.py: App is a type, not an App"),
        (
            "shop.app:",
            "the app 'shop.app:' cannot be read: write `orders.app:app` or `orders/app.py`",
        ),
        ("", "the app '' cannot be read: write `orders.app:app` or `orders/app.py`"),
        ("nowhere.app", "nowhere.app: there is no module 'nowhere', in /"),
        ("shop.app.more", "shop.app.more: there is no module 'shop.app.more', in /"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_so(name: str, told: str) -> None:
    write("shop/app.py", APP)
    with pytest.raises(Misconfigured) as raised:
        loaded(name)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except Exception: pass",
    ],
)
def test_an_import_that_takes_too_long_is_interrupted_and_told_where(body: str) -> None:
    write("shop/app.py", body)
    with pytest.raises(Misconfigured, match=r"not imported after 0.1 s; it was at .*app\.py:\d"):
        loaded("shop/app.py", within_s=0.1)


@pytest.mark.parametrize("name", ["json.py", "sys.py"])
def test_a_file_whose_name_is_another_modules_is_refused_and_told_to_be_renamed(name: str) -> None:
    write(name, APP)
    with pytest.raises(Misconfigured, match=rf"{name}: Python has another module called .* rename"):
        loaded(name)


def test_a_file_in_a_package_may_have_the_name_of_a_module_of_pythons() -> None:
    write("orders/__init__.py", "")
    write("orders/json.py", APP)
    assert loaded("orders/json.py").name == "orders"


def test_a_file_behind_a_link_is_its_own_module() -> None:
    write("real/linked_app.py", APP)
    Path("linked_app.py").symlink_to("real/linked_app.py")
    assert loaded("linked_app.py").name == "orders"
