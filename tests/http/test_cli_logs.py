"""``lmx logs`` without a daemon, where new lines begin; addresses, numbers, bars."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmx.cli.bench_plot import text_bars
from lmx.cli.exits import CommandFailed
from lmx.cli.log_reading import new_lines
from lmx.cli.target import find_target, parse_url
from lmx.cli.words import count_text, duration_text, printable, size_text
from tests.cli_fakes import Asked, fake_daemon, refusal, run_lmx

LINE = {"ts": 0.0, "level": "info", "event": "listening", "logger": "lmx", "port": 1}


def lines(text: str) -> list[dict[str, Any]]:
    """A line per letter."""
    return [{"event": letter} for letter in text]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("abc", "abcde", "de"),
        ("abc", "bcde", "de"),  # the ring moved on
        ("abc", "abc", ""),
        ("aaa", "aaaa", "a"),  # lines that are alike
        ("abc", "xyz", "xyz"),  # another life of the daemon
        ("", "ab", "ab"),
    ],
)
def test_where_new_lines_begin(before: str, after: str, expected: str) -> None:
    """After the longest end of the old ones that the new ones hold."""
    assert lines(expected) == new_lines(lines(before), lines(after))


def test_lines_are_readable_or_json(tmp_path: Path) -> None:
    """One line each; with --json as the daemon keeps them."""
    with fake_daemon() as daemon:
        daemon.answers["GET /admin/logs/tail"] = {"lines": [LINE]}
        outcome = run_lmx("logs", "-n", "7", home=tmp_path, daemon=daemon)
        assert ["info", "listening", "port=1"] == outcome.out.split()[1:]
        assert "lines=7" == daemon.asked[0].query
        assert LINE == run_lmx("logs", "--json", home=tmp_path, daemon=daemon).document


def test_the_file_is_read_while_the_daemon_is_down(tmp_path: Path) -> None:
    """The one that settings name, be its lines JSON or text."""
    log = tmp_path / "lmx.log"
    log.write_text(json.dumps(LINE) + "\nplain words\n")
    (tmp_path / "config.yaml").write_text(f"logging: {{file: '{log}'}}\n")
    with fake_daemon() as daemon:
        pass
    outcome = run_lmx("logs", home=tmp_path, daemon=daemon)
    assert 0 == outcome.status
    assert f"this is {log}" in outcome.err
    assert ["listening", "plain words"] == [
        " ".join(line.split()[slice(2, 3) if "port" in line else slice(1, None)])
        for line in outcome.out.splitlines()
    ]


def test_numbers_in_words() -> None:
    """Powers of ten, and one unit where one is enough."""
    assert ["0 B", "999 B", "4.2 GB", "123 MB"] == [
        size_text(size) for size in (0, 999, 4.2e9, 1.23e8)
    ]
    assert ["-", "135M", "7.6B"] == [count_text(count) for count in (None, 135e6, 7.6e9)]
    assert ["5 s", "2 min", "1 h", "1 h 30 min", "3 d"] == [
        duration_text(seconds) for seconds in (5, 150, 3600, 5400, 3 * 86_400)
    ]
    assert "a\tb\n\N{REPLACEMENT CHARACTER}" == printable("a\tb\n\x07")


def test_bars_are_as_long_as_their_values() -> None:
    """The longest has forty cells; eighths are shown."""
    bars = text_bars("speed", [("1", 10.0), ("10", 20.0)], "tok/s").splitlines()
    assert ["speed", " 1 " + "█" * 20 + " " * 20 + " 10.0 tok/s"] == bars[:2]
    assert "10 " + "█" * 40 + " 20.0 tok/s" == bars[2]
    assert "▏" in text_bars("", [("a", 1.0), ("b", 320.0)], "x")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("studio", "http://studio:1234"),
        (":80", "http://127.0.0.1:80"),
        ("http://studio:99/v1", "http://studio:99"),
        ("https://studio.example", "https://studio.example"),
        ("[::1]:5", "http://[::1]:5"),
    ],
)
def test_addresses_as_people_type_them(text: str, url: str) -> None:
    """Scheme, port and path are filled in or dropped."""
    assert url == parse_url(text)


@pytest.mark.parametrize("text", ["ftp://x", "http://", "studio:port", "http://a:99999"])
def test_what_is_no_address(text: str) -> None:
    """It is wrong usage."""
    with pytest.raises(CommandFailed) as caught:
        parse_url(text)
    assert 2 == caught.value.status


def test_where_the_daemon_is(tmp_path: Path) -> None:
    """Command line before environment before settings; every address of all is this machine."""
    (tmp_path / "config.yaml").write_text(
        "server: {host: 0.0.0.0, port: 99}\nsecurity: {admin_key: k, inference_api_key: i}\n"
    )
    home = {"LMX_HOME": str(tmp_path)}
    own = find_target(environment=home)
    assert ("http://127.0.0.1:99", "k", "i") == (own.url, own.admin_key, own.api_key)
    assert {b"X-Admin-Key": b"k", b"X-Api-Key": b"i"} == own.headers()
    other = find_target(environment=home | {"LMX_URL": "studio"})
    assert ("http://studio:1234", "", "") == (other.url, other.admin_key, other.api_key)
    assert "http://a:1234" == find_target("a", environment=home | {"OPTA_LMX_URL": "b"}).url
    assert "x" == find_target("a", environment=home | {"OPTA_ADMIN_KEY": "x"}).admin_key
    assert "k" not in repr(own)


def test_a_bench_that_is_refused_says_why(tmp_path: Path) -> None:
    """One sentence, however many answers ran together; also when the connection breaks."""
    with fake_daemon() as daemon:
        daemon.answers["GET /admin/models"] = {"loaded": [{"id": "m", "backend": "mlx"}]}
        chat = "POST /v1/chat/completions"
        daemon.answers[chat] = (503, refusal("draining", "the daemon is stopping"))
        outcome = run_lmx("bench", "--streams", "4", home=tmp_path, daemon=daemon)
        assert 1 == outcome.status
        assert "lmx: the daemon is stopping\n" in outcome.err

        def hang_up(_asked: Asked) -> None:
            raise ConnectionAbortedError

        daemon.answers[chat] = hang_up
        assert 3 == run_lmx("bench", home=tmp_path, daemon=daemon).status
