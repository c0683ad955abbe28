from __future__ import annotations

import subprocess
import sys

from tests.promises import PAGE, PROJECT, Shown, gaps, lines, read_statements

REAL = Shown("tests/e2e/test_a.py", "test_a", is_real=True, is_slow=False)
SLOW = Shown("tests/e2e/test_a.py", "test_b", is_real=True, is_slow=True)
UNIT = Shown("tests/unit/test_c.py", "test_c", is_real=False, is_slow=False)
STATEMENTS = {"P1": "It holds", "1": "**No** less"}


def test_every_promise_and_rule_of_the_architecture_has_a_test_that_shows_it() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.promises"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_the_architecture_words_eight_promises_and_thirteen_rules() -> None:
    statements = read_statements(PAGE.read_text("utf-8"))
    assert list(statements) == [f"P{n}" for n in range(1, 9)] + [str(n) for n in range(1, 14)]
    assert all(statements.values())


def test_what_has_no_test_is_told() -> None:
    assert list(gaps(STATEMENTS, {"P1": [REAL], "1": [UNIT]})) == []
    assert list(gaps(STATEMENTS, {"1": [UNIT]})) == ["P1: no test shows it"]
    assert list(gaps(STATEMENTS, {"P1": [REAL]})) == ["1: no test shows it"]


def test_a_promise_needs_a_test_on_real_kafka_that_is_not_slow() -> None:
    told = ["P1: no test on real Kafka in `make test`"]
    assert list(gaps(STATEMENTS, {"P1": [SLOW, UNIT], "1": [UNIT]})) == told


def test_a_mark_that_names_nothing_is_told() -> None:
    found = {"P1": [REAL], "1": [UNIT], "P77": [UNIT]}
    assert list(gaps(STATEMENTS, found)) == ["P77: ARCHITECTURE.md has no such promise or rule"]


def test_the_table_has_each_statement_with_its_tests_by_file() -> None:
    assert list(lines(STATEMENTS, {"P1": [UNIT, SLOW, REAL]})) == [
        "P1  It holds",
        "    tests/e2e/test_a.py (real Kafka)",
        "        test_a",
        "        test_b (slow)",
        "    tests/unit/test_c.py",
        "        test_c",
        "",
        "1  **No** less",
        "",
    ]
