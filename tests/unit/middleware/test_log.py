"""What is logged, at which level, and what never is."""

from __future__ import annotations

from typing import get_args

import pytest
from structlog.testing import capture_logs

from millstream.middleware.log import LoggingMiddleware
from millstream.middleware.pipeline import MiddlewarePipeline, build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Reason
from millstream.schemas.events import ResultStatus
from tests.making import context, resolved, result_of


def test_an_admitted_request_is_one_debug_line_with_its_ids() -> None:
    pipeline = MiddlewarePipeline([LoggingMiddleware()])
    with capture_logs() as lines:
        pipeline.decide(context(resolved(request_id="r1", text="a secret")), generation=1)
    assert [(line["log_level"], line["event"]) for line in lines] == [("debug", "request decided")]
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["source"] == "requests-0-0"
    assert "a secret" not in str(lines)


def test_a_refusal_by_an_earlier_layer_is_a_warning_with_the_reason() -> None:
    pipeline = build_pipeline(Policy.from_yaml("users: {ada: {roles: []}}", "p"))
    with capture_logs() as lines:
        pipeline.decide(context(resolved()), generation=1)
    assert lines[0]["log_level"] == "warning"
    assert (lines[0]["layer"], lines[0]["code"]) == ("auth", "forbidden")
    assert "may not use" in lines[0]["reason"]


@pytest.mark.parametrize("status", get_args(ResultStatus))
def test_every_way_to_end_has_a_level(status: ResultStatus) -> None:
    asked = resolved()
    ended = result_of(asked, status=status).model_copy(
        update={"output": "a secret", "first_token_at_ms": asked.at_ms + 40}
    )
    with capture_logs() as lines:
        assert LoggingMiddleware().settle(asked, ended).result is ended
    assert lines[0]["event"] == "request ended"
    assert (lines[0]["duration_ms"], lines[0]["first_token_ms"]) == (1000, 40)
    assert lines[0]["log_level"] == {"failed": "error", "expired": "warning"}.get(status, "info")
    assert "a secret" not in str(lines)


def test_contents_are_logged_cut_where_that_is_set() -> None:
    layer = LoggingMiddleware(contents_logged=True)
    pipeline = MiddlewarePipeline([layer])
    asked = resolved(text="q" * 5000)
    failed = result_of(asked, status="failed").model_copy(
        update={"output": "answer", "reason": Reason(code="model_failed", message="broke off")}
    )
    with capture_logs() as lines:
        pipeline.decide(context(asked), generation=1)
        pipeline.settle(asked, failed)
    assert lines[0]["input"] == "q" * 2000
    assert (lines[1]["output"], lines[1]["code"]) == ("answer", "model_failed")
