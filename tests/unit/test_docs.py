"""What the documents point at exists: files, headings, targets of the Makefile, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millstream.gateway.command_list import COMMANDS
from millstream.middleware.policy import Policy

PROJECT = Path(__file__).resolve().parents[2]
PAGES = (PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted(PROJECT.glob("docs/**/*.md")))

_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE = re.compile(r"^```(?:sh|text|python)\n(.*?)^```|`([^`\n]+)`", re.DOTALL | re.MULTILINE)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


def anchors(page: Path) -> set[str]:
    """Give the names by which a page's headings are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> list[str]:
    """Give what stands as code on a page."""
    return [block or span for block, span in _CODE.findall(page.read_text("utf-8"))]


@every_page
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(PROJECT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_every_target_of_make_that_is_named_exists(page: Path) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    named = {name for text in code(page) for name in re.findall(r"\bmake ([a-z-]+)", text)}
    assert named <= targets


@every_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    commands = {one.name for one in COMMANDS}
    # A topic's name begins with the same word, and a dot; and Python imports from it.
    called = re.compile(r"(?:^|(?<!from)\s|\./)millstream ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for text in code(page) for name in called.findall(text)}
    assert named <= commands


@every_page
def test_every_module_that_is_named_exists(page: Path) -> None:
    ours = list(PROJECT.glob("[a-z]*/**/*.py"))
    paths = {str(path.relative_to(PROJECT)) for path in ours}
    names = {path.name for path in ours}
    for text in code(page):
        if re.fullmatch(r"[\w/]+\.py", text):
            # By its path, or by its name alone where the package is clear.
            assert text in (paths if "/" in text else names), text


def test_every_test_that_the_architecture_names_exists() -> None:
    named = {
        name
        for text in code(PROJECT / "docs" / "ARCHITECTURE.md")
        for name in re.findall(r"^test_\w+$", text)
    }
    tests = "".join(path.read_text("utf-8") for path in (PROJECT / "tests").rglob("*.py"))
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_the_policy_that_is_shown_is_one() -> None:
    page = PROJECT / "docs" / "how-to" / "policy.md"
    (shown,) = re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    policy = Policy.from_yaml(shown, "policy.md")
    assert policy.rules_for("default", "ada").rate is None
    assert policy.rules_for("acme", "bob").cap_micros == 20_000_000
    assert not policy.rules_for("default", "mallory").may_use("chat_agent")
    assert policy.rules_for("default", "ada").roles != policy.rules_for("default", "x").roles
