"""A web page's words without its markup, one paragraph a line."""

import re
from html.parser import HTMLParser

SILENT = frozenset({"script", "style", "template", "noscript", "svg"})
SPACE = re.compile(r"\s+")
BLOCK = re.compile(
    r"address|article|aside|blockquote|br|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|"
    r"h[1-6]|header|hr|li|main|nav|ol|p|section|table|t[dhr]|ul"
)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.parts: list[str] = []
        self._silent = 0
        self._kept = 0  # elements around that keep their lines
        self._is_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            self._silent += 1
        elif tag == "pre":
            self._kept += 1
            self.parts.append("\n")
        elif tag == "title":
            self._is_title = True
        elif BLOCK.fullmatch(tag):
            self.parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if BLOCK.fullmatch(tag):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "pre":
            self._kept = max(0, self._kept - 1)
            self.parts.append("\n")
        elif tag == "title":
            self._is_title = False
        elif BLOCK.fullmatch(tag):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._is_title:
            self.title += data
        elif not self._silent:
            self.parts.append(data if self._kept else SPACE.sub(" ", data))


def html_to_text(html: str) -> tuple[str, str]:
    """Title and text of a page; broken markup gives what can be read of it."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (SPACE.sub(" ", line).strip() for line in "".join(reader.parts).split("\n"))
    return SPACE.sub(" ", reader.title).strip(), "\n".join(line for line in lines if line)
