"""Where readers put what they recognise: text, reasoning and calls become parts here.

White space is decided here and nowhere else. Blanks and line breaks at the end of what is known
wait for the text after them, so no delta ends in one: clients exist that strip each delta's
trailing blanks, for whom ``"Hello "`` + ``"world"`` would print ``Helloworld``. Where text borders
on markup, templates put line breaks that belong to neither: those are shown only between two
shown texts, as they stood before the markup, and never at an end of the content.
"""

from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart

BLANKS = " \t"
WHITE_SPACE = " \t\r\n"


class _Channel:
    """The text of one channel, as deltas that end in no white space."""

    __slots__ = ("_gap", "_has_shown", "_held", "_is_cut")

    def __init__(self, *, is_cut: bool) -> None:
        self._held: list[str] = []  # only white space; a model may write nothing else for long
        self._gap = ""  # white space before the first markup since the last shown text
        self._is_cut = is_cut  # markup came after the last shown text
        self._has_shown = False

    @property
    def has_shown(self) -> bool:
        return self._has_shown

    def feed(self, text: str) -> str:
        """The delta to show now; may be empty."""
        shown = text.rstrip(WHITE_SPACE)
        if not shown:
            self._held.append(text)
            return ""
        tail = text[len(shown) :]
        if self._held:
            shown = "".join(self._held) + shown
        self._held = [tail] if tail else []
        if self._is_cut:
            shown = self._join(shown)
        self._has_shown = True
        return shown

    def cut(self) -> None:
        """Markup stands here."""
        self._gap = self._gap or "".join(self._held)
        self._held = []
        self._is_cut = True

    def finish(self) -> str:
        """Line breaks at the very end of an answer, unless they border on markup."""
        held, self._held = "".join(self._held), []
        return "" if self._is_cut else held.rstrip(BLANKS)

    def _join(self, shown: str) -> str:
        body = shown.lstrip(WHITE_SPACE)
        gap = self._gap or shown[: len(shown) - len(body)]
        self._gap = ""
        self._is_cut = False
        return gap + body if self._has_shown else body


class Channels:
    """Collects what a reader recognises and hands it out as parts, in order."""

    __slots__ = ("_call_count", "_parts", "_reasoning", "_text")

    def __init__(self) -> None:
        self._text = _Channel(is_cut=False)
        self._reasoning = _Channel(is_cut=True)
        self._call_count = 0
        self._parts: list[AnswerPart] = []

    @property
    def has_reasoning(self) -> bool:
        """Whether any reasoning has been shown."""
        return self._reasoning.has_shown

    def text(self, text: str) -> None:
        """Add visible text."""
        shown = self._text.feed(text)
        if shown:
            self._parts.append(TextPart(shown))

    def reasoning(self, text: str) -> None:
        """Add reasoning."""
        shown = self._reasoning.feed(text)
        if shown:
            self._parts.append(ReasoningPart(shown))

    def call(self, name: str, arguments: str) -> None:
        """Add a complete call."""
        self.cut()
        self._parts.append(ToolCallPart(self._call_count, name, arguments))
        self._call_count += 1

    def cut(self) -> None:
        """Markup that is not shown stands here."""
        self._text.cut()
        self._reasoning.cut()

    def finish(self) -> None:
        """The answer is over."""
        shown = self._text.finish()
        if shown:
            self._parts.append(TextPart(shown))

    def take(self) -> list[AnswerPart]:
        """The parts that are final since the last call."""
        parts, self._parts = self._parts, []
        return parts
