from __future__ import annotations

import re

import pytest

from millstream.schemas import dead_letters, errors
from millstream.schemas.errors import MillstreamError, RateLimited
from millstream.schemas.runs import errors as runs_errors


def descendants(of: type[MillstreamError]) -> set[type[MillstreamError]]:
    return {of}.union(*(descendants(child) for child in of.__subclasses__()))


TREE = {
    error
    for error in descendants(MillstreamError)
    if error.__module__ in {errors.__name__, runs_errors.__name__, dead_letters.__name__}
}


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn: list[tuple[int, str]] = [(0, "MillstreamError")]
    edges = set()
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"^    ([│ ]*)[├└]── (\w+)", line)
        if branch is None:
            continue
        depth = len(branch[1]) // 4 + 1
        parent = next(name for level, name in reversed(drawn) if level == depth - 1)
        drawn.append((depth, branch[2]))
        edges.add((parent, branch[2]))
    real = {(error.__bases__[0].__name__, error.__name__) for error in TREE - {MillstreamError}}
    assert edges == real


@pytest.mark.parametrize("error", sorted(TREE, key=lambda error: error.__name__))
def test_each_error_has_a_code_of_its_own_in_lower_snake_case(error: type[MillstreamError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert [other for other in TREE if other.code == error.code] == [error]


def test_a_rate_limit_says_when_to_try_again() -> None:
    error = RateLimited("3 requests per minute", retry_after_s=12.5)
    assert (str(error), error.retry_after_s) == ("3 requests per minute", 12.5)
