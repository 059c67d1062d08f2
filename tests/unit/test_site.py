"""The documentation's site holds every page, and its API page is the API's."""

import re
import shlex
from typing import Any

import click
import msgspec
import pytest
import typer

from lmx.cli.main import app
from scripts.generate_api import PAGE, write_page
from tests.daemon_process import REPOSITORY

DOCS = REPOSITORY / "docs"
# For those who write LMX; the repository is where they read it.
# A command in running text or in a table.
SPAN = re.compile(r"`(?:[^`|]*\\\| )?lmx ([a-z][^`|]*)[^`]*`")
NOT_ON_THE_SITE = frozenset({"style.md"})


def nav_pages(entry: Any) -> list[str]:
    """The pages of a part of the navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in nav_pages(part)]


def test_every_page_has_its_place() -> None:
    """Once, and in the order in which the site is read."""
    listed = nav_pages(msgspec.yaml.decode((REPOSITORY / "mkdocs.yml").read_bytes())["nav"])
    there = {path.name for path in DOCS.glob("*.md")} - NOT_ON_THE_SITE
    assert sorted({*there, "adr/index.md"}) == sorted(listed)


def test_every_decision_is_listed() -> None:
    """By its title."""
    listed = (DOCS / "adr" / "index.md").read_text()
    for record in sorted((DOCS / "adr").glob("0*.md")):
        title = record.read_text().partition("\n")[0].removeprefix("# ")
        assert f"- [{title}]({record.name})" in listed


def test_the_api_page_is_current() -> None:
    """It is made from the types; scripts/docs makes it anew."""
    assert write_page() == PAGE.read_text()
    assert "### POST /v1/chat/completions" in write_page()


def commands_in_text() -> list[str]:
    """Every ``lmx ...`` that stands between backquotes in the README or the documentation."""
    pages = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
    return sorted(
        {found.strip(" \\") for page in pages for found in SPAN.findall(page.read_text())}
    )


@pytest.mark.parametrize("text", commands_in_text())
def test_commands_in_the_text_exist(text: str) -> None:
    """With every option that is shown."""
    command: click.Command = typer.main.get_command(app)
    words = shlex.split(text)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        names = words.pop(0).split("|")
        assert set(names) <= set(command.commands), text
        command = command.commands[names[0]]
    context = click.Context(command, resilient_parsing=True)
    command.make_parser(context).parse_args([word for word in words if word != "..."])
