"""Keys are found wherever they may stand, compared whole, and guesses are counted."""

import pytest

from lmx.web.keys import (
    MOST_ADDRESSES,
    WINDOW_S,
    KeyRing,
    WrongKeys,
    bearer_key,
    query_keys,
)


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([], False),
        ([b"one"], True),
        ([b"two"], True),
        ([b"wrong", b"two"], True),
        ([b"two", b"wrong"], True),
        ([b"on"], False),
        ([b"one "], False),
        ([b"ONE"], False),
        ([b""], False),
        (["schlüssel".encode()], True),
        (["schlüssel".encode("latin-1")], False),
    ],
)
def test_what_opens(shown: list[bytes], *, expected: bool) -> None:
    """Any key of the ring, shown whole, beside whatever else is shown."""
    assert expected == KeyRing(["one", "two", "schlüssel"]).opens(shown)


def test_an_empty_ring_opens_nothing() -> None:
    """No key is configured: nothing shown is right, and the ring says that it is empty."""
    assert not KeyRing([])
    assert not KeyRing([]).opens([b""])


def test_rings_hide_their_keys() -> None:
    """Neither its representation nor its attributes hold a key."""
    ring = KeyRing(["opta_sk_secret"])
    assert "opta_sk_secret" not in repr(ring)
    assert b"opta_sk_secret" not in b"".join(vars(ring)["_digests"])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer abc", b"abc"),
        (b"BEARER   abc ", b"abc"),
        (b"Bearer a b", b"a b"),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Basic abc", None),
        (b"abc", None),
        (b"", None),
    ],
)
def test_bearers(header: bytes, expected: bytes | None) -> None:
    """The scheme's case does not matter; another scheme shows no key."""
    assert expected == bearer_key(header)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", []),
        (b"admin_key=abc", [b"abc"]),
        (b"x=1&admin_key=abc&y", [b"abc"]),
        (b"admin_key=a%2Bb%26c", [b"a+b&c"]),
        (b"admin_key=a+b", [b"a b"]),
        (b"admin_key=%C3%BC", "ü".encode()),
        (b"admin_key=a&x_admin_key=b", [b"a", b"b"]),
        (b"admin_key=", []),
        (b"admin_key", []),
        (b"api_key=abc", []),
        (b"xadmin_key=abc", []),
    ],
)
def test_query_strings(query: bytes, expected: list[bytes] | bytes) -> None:
    """Values are decoded; other names, and empty values, show no key."""
    wanted = [expected] if isinstance(expected, bytes) else expected
    assert wanted == query_keys(query, (b"admin_key", b"x_admin_key"))


def test_an_address_waits_for_the_rest_of_the_window() -> None:
    """After as many wrong keys as may be, until a minute after the first of them."""
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(2):
        wrong.add("a")
        assert 0 == wrong.wait_s("a", 3)
    clock.now_s += 20
    wrong.add("a")
    assert (40, 0) == (wrong.wait_s("a", 3), wrong.wait_s("b", 3))
    clock.now_s += 39.5
    assert 1 == wrong.wait_s("a", 3)
    clock.now_s += 0.5
    assert 0 == wrong.wait_s("a", 3)


def test_a_new_window_begins_with_the_next_wrong_key() -> None:
    """What was counted before is forgotten."""
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(3):
        wrong.add("a")
    clock.now_s += WINDOW_S
    wrong.add("a")
    assert (0, WINDOW_S) == (wrong.wait_s("a", 2), wrong.wait_s("a", 1))


def test_no_limit() -> None:
    """A limit of 0 is none."""
    wrong = WrongKeys(Clock())
    for _ in range(1000):
        wrong.add("a")
    assert 0 == wrong.wait_s("a", 0)


def test_the_table_is_bounded() -> None:
    """An attacker with many addresses fills no memory; the quietest are forgotten."""
    wrong = WrongKeys(Clock())
    wrong.add("first")
    wrong.add("second")
    for number in range(MOST_ADDRESSES - 2):
        wrong.add(str(number))
    wrong.add("first")
    wrong.add("one more")
    assert MOST_ADDRESSES == len(wrong)
    assert (0.0, WINDOW_S) == (wrong.wait_s("second", 1), wrong.wait_s("first", 2))
