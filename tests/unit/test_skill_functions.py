"""The functions of built-in skills that need no process: addresses, pages, passages."""

import time
from itertools import pairwise

import pytest

from lmx.skills.builtin.html_text import html_to_text
from lmx.skills.builtin.passages import PASSAGE_CHARACTERS, cut
from lmx.skills.builtin.web import fetch_url, is_near, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_everybodys(address: str) -> None:
    """Also in IPv6, and IPv4 inside it."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104  # nothing is bound
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "not an address",
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    """This machine, private and special networks, and what leads to them in disguise."""
    assert not is_public(address)


@pytest.mark.parametrize(
    ("address", "own", "near"),
    [
        ("8.8.8.8", "8.8.8.8", True),
        ("8.8.8.8", "8.8.8.9", False),
        ("2a00:1:2:3::5", "2a00:1:2:3:ffff::6", True),
        ("2a00:1:2:3::5%eth0", "2a00:1:2:3::5", True),
        ("2a00:1:2:4::5", "2a00:1:2:3::5", False),
        ("8.8.8.8", "::808:808", False),
    ],
)
def test_public_addresses_of_the_own_network_are_near(
    address: str, own: str, *, near: bool
) -> None:
    """In IPv6 a whole home has public addresses; in IPv4 this machine may have one."""
    assert near is is_near(address, own)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "example.com",
        "http://a b/",
        "http://x/\r\nHost: y",
        "http://exämple/",
        "http://u:p@example.com/",
        "http://[::1",
        "http://x:99999/",
        "http://x:0/",
        "javascript:alert(1)",
        "",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_looked_up(url: str) -> None:
    """One sentence, and no connection."""
    with pytest.raises(ValueError, match="address"):
        fetch_url(url)


def test_a_page_becomes_its_words() -> None:
    """Blocks are lines, scripts and styles are left out, entities are characters."""
    page = """<!doctype html><html><head><title> The
      title </title><style>p { x }</style><script>if (a < b) {}</script></head>
      <body><h1>Head</h1><p>One &amp; <b>two</b>,
      three<br>four</p><ul><li>a<li>b</ul><svg><text>no</text></svg>
      <pre>x = 1
      y = 2</pre></body>"""
    assert ("The title", "Head\nOne & two, three\nfour\na\nb\nx = 1\ny = 2") == html_to_text(page)


@pytest.mark.parametrize("page", ["", "<", "<p", "</p>", "<title>x", "a<script>b", "&#xffffffff;"])
def test_broken_pages_break_nothing(page: str) -> None:
    """What can be read is read."""
    html_to_text(page)


def test_passages_cover_a_text() -> None:
    """Every word is in one, none is too long, and each says where it begins."""
    lines = [f"line {number} " + "word " * (number % 30) for number in range(1, 400)]
    passages = cut("\n".join(lines))
    assert all(len(text) <= PASSAGE_CHARACTERS for _, text in passages)
    assert set("\n".join(lines).split()) == set(" ".join(text for _, text in passages).split())
    for number, text in passages:
        assert text.startswith(f"line {number} ")
    overlaps = [one[1].splitlines()[-1] in two[1] for one, two in pairwise(passages)]
    assert any(overlaps)


@pytest.mark.parametrize("text", ["", "\n\n \n", "\n" * 100_000])
def test_nothing_has_no_passages(text: str) -> None:
    """Blank lines are no passage."""
    assert [] == cut(text)


def test_one_endless_line_is_cut_within_it() -> None:
    """In time that grows with its length."""
    began = time.process_time()
    passages = cut("x" * 1_000_000)
    assert 1_000_000 == sum(len(text) for _, text in passages)
    cut("ab \n b\n\n" * 125_000)
    assert time.process_time() - began < 5
