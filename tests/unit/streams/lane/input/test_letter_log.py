from __future__ import annotations

from structlog.testing import capture_logs

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import DeadLetter
from millstream.streams.lane.input.letter_log import LINES_MAX, LetterLog
from tests.support import eventually


def letter(offset: int) -> DeadLetter:
    source = Address(topic="requests", partition=0, offset=offset)
    reason = Reason(code="wrong_shape", message=f"no user in {offset}")
    return DeadLetter(at_ms=1, reason=reason, source=source, source_at_ms=1)


async def test_few_dead_letters_have_a_line_each() -> None:
    with capture_logs() as lines:
        log = LetterLog(stretch_s=0.01)
        for offset in range(LINES_MAX):
            log.tell(letter(offset))
        told = [(line["event"], line["source"]) for line in lines]
        # The next stretch begins anew.
        await eventually(lambda: log._letters == 0)
        log.tell(letter(99))
    assert told == [("dead letter", f"requests-0-{offset}") for offset in range(LINES_MAX)]
    assert [line["event"] for line in lines] == ["dead letter"] * (LINES_MAX + 1)


async def test_of_a_flood_of_dead_letters_the_log_tells_the_first_and_how_many_more() -> None:
    with capture_logs() as lines:
        log = LetterLog(stretch_s=0.01)
        for offset in range(12_000):
            log.tell(letter(offset))
        await eventually(lambda: len(lines) > LINES_MAX)
    assert len(lines) == LINES_MAX + 1
    assert lines[-1]["event"] == "more dead letters"
    assert lines[-1]["count"] == 12_000 - LINES_MAX
    assert (lines[-1]["last"], lines[-1]["reason"]) == ("requests-0-11999", "no user in 11999")
