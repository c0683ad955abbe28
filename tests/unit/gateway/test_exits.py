"""Exit codes are what scripts were promised."""

from __future__ import annotations

from typing import get_args

import pytest

from millstream.gateway.exits import exit_code_of_error, exit_code_of_result
from millstream.schemas.dead_letters import RequestIdReused
from millstream.schemas.errors import (
    InputTooLarge,
    LaneLost,
    MillstreamError,
    Misconfigured,
    NoSuchPartition,
    ServiceUnavailable,
    TopicDrift,
    UnknownTemplate,
)
from millstream.schemas.events import ResultStatus
from tests import making

CODES = {
    "completed": 0,
    "rejected": 3,
    "failed": 4,
    "expired": 4,
    "cancelled": 4,
    "interrupted": 4,
}


@pytest.mark.parametrize("status", get_args(ResultStatus))
def test_a_result_s_status_decides_the_exit_code(status: ResultStatus) -> None:
    result = making.result(request_id="r", status=status)
    assert exit_code_of_result(result) == CODES[status]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misconfigured("x"), 6),
        (TopicDrift("x"), 6),
        (ServiceUnavailable("x"), 6),
        (InputTooLarge("x"), 3),
        (RequestIdReused("x"), 3),
        (NoSuchPartition("x"), 2),
        (UnknownTemplate("x"), 8),
        (LaneLost("x"), 1),
    ],
)
def test_an_error_s_type_decides_the_exit_code(error: MillstreamError, code: int) -> None:
    assert exit_code_of_error(error) == code
