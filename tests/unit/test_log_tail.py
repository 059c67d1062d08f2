"""The ring of log lines: bounded, JSON-ready, and a record of what is logged as it is logged."""

import json
from typing import Any, NamedTuple

import pytest

from lmx.daemon.log_tail import TEXT_LIMIT, LogTail
from lmx.errors import InvalidRequest
from lmx.schema.logs import parse_log_tail_query


class Named(NamedTuple):
    name: str = "lmx.test"


def line(**fields: Any) -> dict[str, Any]:
    """The line that a ring keeps of these fields."""
    tail = LogTail()
    assert fields == tail.append(Named(), "info", dict(fields))
    [kept] = tail.last(1)
    return kept


def test_a_line_says_when_who_and_what() -> None:
    """The four common fields first, then those of the line, as they were."""
    kept = line(event="listening", level="warning", timestamp="2026-01-01", port=1, urls=["a"])
    assert ["ts", "level", "event", "logger", "port", "urls"] == list(kept)
    assert isinstance(kept.pop("ts"), float)
    assert {
        "level": "warning",
        "event": "listening",
        "logger": "lmx.test",
        "port": 1,
        "urls": ["a"],
    } == kept


def test_only_the_last_lines_are_kept() -> None:
    """A full ring drops the oldest; more than there are is all there are."""
    tail = LogTail(3)
    for number in range(5):
        tail.append(Named(), "info", {"event": str(number)})
    assert ["3", "4"] == [kept["event"] for kept in tail.last(2)]
    assert ["2", "3", "4"] == [kept["event"] for kept in tail.last(1000)]


def test_a_line_is_bounded() -> None:
    """Long texts and large values are cut, so that the ring's size has a limit."""
    kept = line(event="x" * 10 * TEXT_LIMIT, many=list(range(TEXT_LIMIT)))
    assert all(len(str(kept[name])) <= TEXT_LIMIT + 1 for name in ("event", "many"))


def test_every_line_is_json() -> None:
    """Whatever is logged: errors with their traces, sets, objects and odd keys."""
    error = ValueError("what happened")
    kept = line(event="x", exc_info=error, path=Named, odd={1: {2}}, raw=b"a")
    assert "ValueError: what happened" in kept["exception"]
    assert kept == json.loads(json.dumps(kept))


def test_the_count_of_lines_is_checked() -> None:
    """From one to a thousand; 200 when nobody says; anything else names the parameter."""
    assert 200 == parse_log_tail_query({}).lines
    assert [1, 1000] == [parse_log_tail_query({"lines": n}).lines for n in ("1", "1000")]
    for text in ("0", "1001", "-1", "many", "", "1.5"):
        with pytest.raises(InvalidRequest) as caught:
            parse_log_tail_query({"lines": text})
        assert "lines" == caught.value.param
