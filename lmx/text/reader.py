"""Reads answers whose markup is markers in running text: every family but harmony.

Theory of operation. The reader is in one mode at a time: text, section (between calls) or
reasoning. Each mode has a table of the markers that mean something there; between markers, text
goes to its channel at once, and a tail that may yet become a marker is held. A marker either
switches the mode, is dropped, or opens a block. A block is held whole until its end, then parsed:
calls if its rule understands it, else its raw text. Inside reasoning only the closing marker
means anything. The decision at each character depends on the characters before it alone, so how an
answer was split changes nothing.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

from lmx.text.channels import WHITE_SPACE, Channels
from lmx.text.markers import MarkerFinder, finder_for
from lmx.text.reasoning import ReasoningMarkers
from lmx.text.tools.family import Call, Family, Rule, Tools
from lmx.text.tools.scanner import BlockScanner, Shape

Mode = Literal["text", "section", "reasoning"]
# What a marker does: opens a block, switches the mode, or nothing but vanish.
Action = Rule | Mode | None

_BETWEEN_BARE_CALLS = WHITE_SPACE + ";,"
_LEAD_LIMIT = 512  # characters of white space and call within which a bare call must show itself


class Table(NamedTuple):
    """What a mode recognises."""

    actions: dict[str, Action]
    finder: MarkerFinder


@lru_cache(maxsize=64)
def mode_tables(
    family: Family, reasoning: ReasoningMarkers | None, *, has_tools: bool
) -> dict[Mode, Table]:
    """What each mode recognises in a dialect. Shared between requests: not to be changed."""
    actions: dict[Mode, dict[str, Action]] = {"text": {}, "section": {}, "reasoning": {}}
    actions["text"].update(dict.fromkeys(family.silent))
    if reasoning is not None:
        actions["text"][reasoning.opening] = "reasoning"
        actions["reasoning"] = {reasoning.closing: "text", reasoning.opening: "reasoning"}
    if has_tools:
        rules = {rule.opening: rule for rule in family.rules}
        section = family.section
        if section is not None:
            actions["text"][section.begin] = "section"
            actions["section"] = {section.end: "text", **rules}
        if section is None or section.is_optional:
            actions["text"].update(rules)
    return {mode: Table(table, finder_for(tuple(table))) for mode, table in actions.items()}


class MarkedReader:
    """Reads one answer.

    Args:
        channels: Where what is recognised goes.
        family: How calls are spelt.
        reasoning: How reasoning is marked, if it is.
        tools: The offered tools; with none, markup of calls is text.
        starts_in_reasoning: The prompt ends in the opening marker.
    """

    def __init__(
        self,
        channels: Channels,
        family: Family,
        reasoning: ReasoningMarkers | None,
        *,
        tools: Tools,
        starts_in_reasoning: bool,
    ) -> None:
        self._channels = channels
        self._tools = tools
        self._tables = mode_tables(family, reasoning, has_tools=bool(tools))
        self._mode: Mode = "text"
        self._held = ""  # a tail that may become a marker, or the block so far
        self._rule: Rule | None = None  # of the open block
        self._scanner: BlockScanner | None = None  # set iff a block is open
        self._is_quoting = True  # quotes hide the ends of blocks
        self._bare = family.bare if tools else None  # None once an answer began without a call
        self._leads = self._bare.leads(tools) if self._bare is not None else ()
        self._skipped = WHITE_SPACE  # what may stand before a bare call
        if starts_in_reasoning and reasoning is not None:
            channels.cut()
            self._mode = "reasoning"

    def feed(self, text: str) -> None:
        """Add text."""
        if (
            self._scanner is None
            and not self._held
            and self._bare is None
            and self._tables[self._mode].finder.is_clear(text)
        ):
            self._emit(text)
            return
        self._held += text
        while self._step():
            pass

    def finish(self, *, is_stopped: bool) -> None:
        """Nothing follows. What is held becomes a call if it is whole, else text or reasoning.

        Args:
            is_stopped: The model ended the answer itself, so what it left open it meant to close.
        """
        while self._scanner is not None and self._rule is not None:
            if self._end_block(is_final=True):
                while self._step():
                    pass
                continue
            self._give_up(self._rule, is_stopped=is_stopped)
        self._emit(self._held)
        self._held = ""

    def _emit(self, text: str) -> None:
        if self._mode == "reasoning":
            self._channels.reasoning(text)
            return
        if self._bare is not None and text.strip():
            self._bare = None
        self._channels.text(text)

    def _step(self) -> bool:
        """Take one piece off the held text; False when more text is needed."""
        if self._scanner is not None:
            return self._end_block(is_final=False)
        if self._bare is not None and self._mode == "text":
            is_decided = self._read_lead()
            if not is_decided or self._scanner is not None:
                return is_decided
        table = self._tables[self._mode]
        found = table.finder.find(self._held)
        if found is None:
            keep = table.finder.open_tail(self._held)
            self._emit(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        at, marker = found
        self._emit(self._held[:at])
        self._held = self._held[at:]
        self._act(marker, table.actions[marker])
        return True

    def _read_lead(self) -> bool:
        """Open a block if the answer begins with a bare call; False while that is undecided."""
        window = self._held[:_LEAD_LIMIT]
        lead = window.lstrip(self._skipped)
        squeezed = "".join(lead.split())
        if self._bare is not None and squeezed.startswith(self._leads):
            at = len(window) - len(lead)
            if self._skipped == WHITE_SPACE:
                self._emit(self._held[:at])
            self._held = self._held[at:]
            self._open(self._bare.rule)
            return True
        if len(self._held) >= _LEAD_LIMIT:
            self._bare = None
            return True
        return not any(start.startswith(squeezed) for start in self._leads)

    def _act(self, marker: str, action: Action) -> None:
        if isinstance(action, Rule):
            self._open(action)
            return
        self._held = self._held[len(marker) :]
        if action == "reasoning" == self._mode:
            # Opened by the prompt and by the model again; further down it is a word.
            if self._channels.has_reasoning:
                self._emit(marker)
            return
        self._channels.cut()
        self._mode = action or self._mode

    def _open(self, rule: Rule) -> None:
        shape = Shape(
            ends=rule.ends,
            nexts=(rule.opening,) if rule.opening else (),
            quotes=rule.quotes if self._is_quoting else (),
            is_balanced=rule.is_balanced,
        )
        self._rule = rule
        self._scanner = BlockScanner(shape, len(rule.opening))

    def _end_block(self, *, is_final: bool) -> bool:
        """Close the open block if its end is there."""
        if self._scanner is None or self._rule is None:
            return False
        found = self._scanner.find_end(self._held, is_final=is_final)
        if found is None:
            return False
        body_end, end = found
        raw = self._held[:end]
        self._held = self._held[end:]
        calls = self._parse(self._rule, raw[:body_end])
        self._close()
        if calls is None:
            self._emit(raw)
        else:
            self._call(calls)
        return True

    def _parse(self, rule: Rule, block: str) -> list[Call] | None:
        calls = rule.parse(block[len(rule.opening) :], self._tools)
        # Without a marker, only an offered tool's name tells a call from an answer.
        if calls is not None and not rule.opening:
            return calls if all(call.name in self._tools for call in calls) else None
        return calls

    def _call(self, calls: list[Call]) -> None:
        for call in calls:
            self._channels.call(call.name, call.arguments)
        self._skipped = _BETWEEN_BARE_CALLS

    def _close(self) -> None:
        self._rule = None
        self._scanner = None

    def _give_up(self, rule: Rule, *, is_stopped: bool) -> None:
        """Settle a block whose end will never come."""
        raw = self._held
        calls = self._parse(rule, raw) if is_stopped or rule.is_whole_without_end else None
        self._close()
        if calls is not None:
            self._held = ""
            self._call(calls)
        elif self._is_quoting and any(end in raw for end in rule.ends):
            # A string that was never closed hid the end: look again without strings.
            self._is_quoting = False
            while self._step():
                pass
        else:
            self._held = ""
            self._channels.cut()
            self._emit(_without_markup(raw, rule))


def _without_markup(raw: str, rule: Rule) -> str:
    if rule.markup is not None:
        raw = rule.markup.sub(lambda found: f"{found[1]} " if found.lastindex else " ", raw)
    return raw.removeprefix(rule.opening)
