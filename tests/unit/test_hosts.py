"""Which names are ours and which pages may use us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config import SecuritySettings
from lmx.web.hosts import HostRules, OriginRules, is_loopback, split_authority

HOSTS = HostRules("Studio.home.arpa", ["lmx.example.org", ".lan", "Box.Local:1234"])
ORIGINS = OriginRules(SecuritySettings().cors_allowed_origins)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1234",
        "LOCALHOST",
        "localhost.",
        "a.localhost:80",
        "127.0.0.1:1234",
        "127.1.2.3",
        "[::1]:1234",
        "[::1]",
        "[fe80::1]",
        "[fe80::1%en0]:1234",
        "192.168.1.9:1234",
        "8.8.8.8",
        "studio.home.arpa",
        "studio",
        "studio:1234",
        "studio.local",
        "Studio.local.:1234",
        "lmx.example.org",
        "x.lan",
        "a.b.lan:8080",
        "lan",
        "box.local",
    ],
)
def test_names_of_this_machine(host: str) -> None:
    """Loopback, any address, the machine's names and what is configured, whatever the port."""
    assert HOSTS.allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost.example",
        "home.arpa",
        "other.home.arpa",
        "xlan",
        "sub.lmx.example.org",
        "lmx.example.org.evil.example",
        "evil.example#.localhost",
        "evil.example/.localhost",
        "user@localhost",
        "localhost:port",
        "localhost:123456",
        "[localhost]",
        "::1",
        "[::1",
        "",
        " ",
        "local host",
        "1.2.3.4.5",
        "999.1.1.1",
    ],
)
def test_names_of_others(host: str) -> None:
    """A name that resolves to us by somebody else's doing is not ours, nor is what is no name."""
    assert not HOSTS.allows(host)


def test_any_name_may_be_allowed() -> None:
    """A star switches the check off."""
    assert HostRules("x", ["*"]).allows("evil.example")


@given(st.text(max_size=20))
def test_any_header_is_judged(text: str) -> None:
    """No text raises, and what splits is a host without the characters that end one."""
    assert HOSTS.allows(text) in {True, False}
    assert ORIGINS.allows(text, text) in {True, False}
    authority = split_authority(text)
    assert authority is None or not set("/?#@ ") & set(authority.host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:3000", "x"),
        ("http://localhost", None),
        ("http://LOCALHOST:3000", None),
        ("http://127.0.0.1:5173", "x"),
        ("http://[::1]:5173", "x"),
        ("https://lmx.optalocal.com", "x"),
        ("http://192.168.1.9:1234", "192.168.1.9:1234"),
        ("http://studio.local:1234", "Studio.local:1234"),
        ("http://studio.local", "studio.local:80"),
        ("https://studio.local", "studio.local:443"),
        ("app://-", "x"),
        ("tauri://localhost", "x"),
        ("vscode-webview://abc", "x"),
        ("chrome-extension://abc", None),
    ],
)
def test_pages_that_may(origin: str, host: str | None) -> None:
    """Those configured, our own, and applications, whose schemes no page has."""
    assert ORIGINS.allows(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "x"),
        ("file://", "x"),
        ("https://evil.example", "x"),
        ("https://localhost:3000", "x"),
        ("https://lmx.optalocal.com:8443", "x"),
        ("http://lmx.optalocal.com", "x"),
        ("https://lmx.optalocal.com.evil.example", "x"),
        ("https://evil.example/lmx.optalocal.com", "x"),
        ("http://localhost.evil.example:3000", "x"),
        ("http://localhost:3000@evil.example", "x"),
        ("http://192.168.1.9:1235", "192.168.1.9:1234"),
        ("http://192.168.1.9:1234", None),
        ("", "x"),
        ("evil.example", "evil.example"),
    ],
)
def test_pages_that_may_not(origin: str, host: str | None) -> None:
    """Everybody else: another scheme or port is another origin."""
    assert not ORIGINS.allows(origin, host)


def test_configured_origins() -> None:
    """They replace the default ones; a star is all, and `null` may be one."""
    rules = OriginRules(["https://a.example", "http://b.example:*", "null"])
    for origin in ("https://a.example", "http://b.example:1", "http://b.example", "null"):
        assert rules.allows(origin, None)
    for origin in ("http://localhost:3000", "http://a.example", "https://b.example"):
        assert not rules.allows(origin, None)
    assert OriginRules(["*"]).allows("null", None)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.5", False),
        ("::ffff:192.168.1.5", False),
        ("fe80::1%en0", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_loopback(address: str, *, expected: bool) -> None:
    """A client's address is this machine's loopback in any of its spellings."""
    assert expected == is_loopback(address)
