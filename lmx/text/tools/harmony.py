"""Harmony, gpt-oss's message format: every message has a header that says who it is for.

    <|channel|>analysis<|message|>The user wants the weather.<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>
    {"city": "Paris"}<|call|>
    <|start|>assistant<|channel|>final<|message|>It rains in Paris.<|return|>

(without the line breaks) from the template of openai/gpt-oss-20b and OpenAI's harmony guide. The
prompt ends in ``<|start|>assistant``, so an answer begins inside a header; the recipient may stand
before the channel. Analysis is reasoning, a recipient makes a call, all else is text. ``<|call|>``
and ``<|return|>`` end generation and are usually not seen.
"""

import re
from typing import Literal

from lmx.text.channels import Channels
from lmx.text.markers import finder_for
from lmx.text.tools.family import STRINGS, Family, Tools
from lmx.text.tools.scanner import BlockScanner, Shape
from lmx.text.tools.values import make_call

HARMONY = Family(name="harmony")

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_NEXTS = (_START, _CHANNEL)
_LEADS = (_START, _CHANNEL, _MESSAGE, "<|constrain|>", "to=")
_HEADER_LIMIT = 1024  # characters; a header names a role, a channel and a tool
_HEADER_ENDS = finder_for((_MESSAGE, *_ENDS))
_BODY_ENDS = finder_for((*_ENDS, *_NEXTS))
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")

_State = Literal["between", "header", "reasoning", "text", "call"]


class HarmonyReader:
    """Reads one answer.

    Args:
        channels: Where what is recognised goes.
        tools: The offered tools; calls of no other name are recognised without ``functions.``.
        starts_in_reasoning: The prompt ends after the header of an analysis message.
    """

    def __init__(self, channels: Channels, tools: Tools, *, starts_in_reasoning: bool) -> None:
        self._channels = channels
        self._tools = tools
        self._state: _State = "reasoning" if starts_in_reasoning else "between"
        self._held = ""
        self._header = ""  # as written; of the call that is being read
        self._name = ""
        self._scanner: BlockScanner | None = None  # set iff the state is "call"
        self._quotes = STRINGS

    def feed(self, text: str) -> None:
        """Add text."""
        if self._state in {"text", "reasoning"} and not self._held and _BODY_ENDS.is_clear(text):
            self._emit(text)
            return
        self._held += text
        while self._step():
            pass

    def finish(self, *, is_stopped: bool) -> None:
        """Nothing follows. What is held becomes a call if it is whole, else text or reasoning.

        Args:
            is_stopped: Unused: JSON says itself whether it is whole.
        """
        while self._state == "call":
            if self._scanner is not None and self._end_call(is_final=True):
                while self._step():
                    pass
                continue
            if self._call(self._held):
                self._held = ""
            elif self._quotes and any(end in self._held for end in _ENDS):
                # A string that was never closed hid the end: look again without strings.
                self._quotes = ()
                self._scanner = BlockScanner(_shape(()), 0)
                continue
            self._channels.cut()
            self._state = "text"
        if self._state != "header" or not self._held.startswith(("<|", "to=functions.")):
            self._emit(self._held)  # a header that was cut off holds nothing to show
        self._held = ""

    def _emit(self, text: str) -> None:
        if self._state == "reasoning":
            self._channels.reasoning(text)
        else:
            self._channels.text(text)

    def _step(self) -> bool:
        """Take one piece off the held text; False when more text is needed."""
        if self._state == "between":
            return self._read_lead()
        if self._state == "header":
            return self._read_header()
        if self._state == "call":
            return self._end_call(is_final=False)
        return self._read_body()

    def _read_lead(self) -> bool:
        window = self._held[:_HEADER_LIMIT]
        lead = window.lstrip()
        at = len(window) - len(lead)
        for end in _ENDS:
            if lead.startswith(end):
                self._held = self._held[at + len(end) :]
                return True
        if lead.startswith(_LEADS):
            self._held = self._held[at:]
            self._state = "header"
            return True
        if len(window) < _HEADER_LIMIT and any(m.startswith(lead) for m in (*_LEADS, *_ENDS)):
            return False
        self._state = "text"  # no header: a prompt that the template did not end as usual
        return True

    def _read_header(self) -> bool:
        found = _HEADER_ENDS.find(self._held[:_HEADER_LIMIT])
        if found is None:
            if len(self._held) >= _HEADER_LIMIT:
                self._state = "text"
                self._emit(self._held[:_HEADER_LIMIT])
                self._held = self._held[_HEADER_LIMIT:]
                return True
            return False
        at, marker = found
        header = self._held[: at + len(marker)]
        self._held = self._held[len(header) :]
        if marker != _MESSAGE:
            self._state = "text"
            self._emit(header)
            self._state = "between"
            return True
        self._begin_body(header)
        return True

    def _begin_body(self, header: str) -> None:
        channel = _CHANNEL_NAME.search(header)
        recipient = _RECIPIENT.search(header)
        is_call = recipient is not None and (
            "functions." in recipient[0] or recipient[1] in self._tools
        )
        self._state = "text"
        if recipient is not None and is_call and self._tools:
            self._header, self._name = header, recipient[1]
            self._scanner = BlockScanner(_shape(self._quotes), 0)
            self._state = "call"
        elif is_call:
            self._emit(header)
        else:
            self._channels.cut()
            if channel is not None and channel[1] == "analysis":
                self._state = "reasoning"

    def _read_body(self) -> bool:
        found = _BODY_ENDS.find(self._held)
        if found is None:
            keep = _BODY_ENDS.open_tail(self._held)
            self._emit(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        at, marker = found
        self._emit(self._held[:at])
        self._held = self._held[at if marker in _NEXTS else at + len(marker) :]
        self._state = "header" if marker in _NEXTS else "between"
        return True

    def _end_call(self, *, is_final: bool) -> bool:
        """Close the call if its end is there."""
        if self._scanner is None:
            return False
        found = self._scanner.find_end(self._held, is_final=is_final)
        if found is None:
            return False
        body_end, end = found
        if not self._call(self._held[:body_end]):
            self._channels.text(self._header + self._held[:end])
        self._held = self._held[end:]
        self._scanner = None
        self._state = "between"
        return True

    def _call(self, body: str) -> bool:
        call = make_call(self._name, body) if body.strip() else None
        if call is not None:
            self._channels.call(call.name, call.arguments)
        return call is not None


def _shape(quotes: tuple[tuple[str, str], ...]) -> Shape:
    return Shape(ends=_ENDS, nexts=_NEXTS, quotes=quotes)
