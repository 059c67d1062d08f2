"""The dashboard's files: what is served is what is there, and it needs nothing from elsewhere."""

import re
from importlib.resources import files

import pytest

from lmx.web.dashboard import CONTENT_SECURITY_POLICY, CONTENT_TYPES, PAGE, prefers_html

FOLDER = files("lmx.web").joinpath("dashboard")
TEXTS = {name: FOLDER.joinpath(name).read_text("utf-8") for name in CONTENT_TYPES}
NAMESPACE = "http://www.w3.org/2000/svg"
LINE_LIMIT = 400
PARSERS = r"(?:inner|outer|Adjacent)HTML|document\.write|\beval\(|new Function|DOMParser"


def test_the_table_is_the_folder() -> None:
    """Every file is served, and nothing is served that is no file."""
    assert sorted(CONTENT_TYPES) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", sorted(CONTENT_TYPES))
def test_no_file_leads_elsewhere(name: str) -> None:
    """No address of another server stands in any file; the name of SVG is no address."""
    text = TEXTS[name].replace(NAMESPACE, "")
    assert [] == re.findall(r"(?:https?|wss?):|[\"'(]//", text)


@pytest.mark.parametrize("name", sorted(CONTENT_TYPES))
def test_every_file_is_readable(name: str) -> None:
    """Short enough to be read; scripts never parse markup."""
    assert len(TEXTS[name].splitlines()) < LINE_LIMIT
    if name.endswith(".js"):
        assert [] == re.findall(PARSERS, TEXTS[name])


def test_the_page_has_nothing_inline() -> None:
    """The policy would refuse scripts, styles and handlers that stand in the page."""
    page = TEXTS[PAGE]
    assert [] == re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert ['<script type="module" src="/admin/ui/main.js">'] == re.findall("<script.*?>", page)


def test_what_the_page_names_is_served() -> None:
    """Every file that the page, a script or the style sheet asks for is in the table."""
    asked = set(re.findall(r"/admin/ui/([\w.]+)", "".join(TEXTS.values())))
    asked |= set(re.findall(r"from \"\./([\w.]+)\"", "".join(TEXTS.values())))
    assert set() == asked - set(CONTENT_TYPES)
    unused = set(CONTENT_TYPES) - asked - {PAGE}
    assert set() == unused


def test_the_policy_is_strict() -> None:
    """Only this server's own files, no frame, no form that leaves, no base."""
    directives = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.split(";"))
    assert {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    } == directives


@pytest.mark.parametrize(
    ("accept", "wants_html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", True),
        ("text/html, */*", True),
        ("text/*", True),
        ("text/html, application/json", False),
        ("text/html;q=0.5, application/json;q=0.9", False),
        ("application/json;q=0.2, TEXT/HTML;q=0.9", True),
        ("text/html;q=0, */*", False),
        ("text/html;q=much", False),
        (";;,,=", False),
    ],
)
def test_browsers_are_told_from_clients(accept: str, *, wants_html: bool) -> None:
    """HTML goes to those who want it more than JSON, and to nobody else."""
    assert wants_html == prefers_html(accept)
