"""What is asked and answered, as log lines, for those who have asked for that.

Off by default, and then no line of LMX holds a word of either. Texts are cut where they are longer
than anybody reads in a log.
"""

from collections.abc import Callable

import msgspec
import structlog

from lmx.daemon.running import OpenRequest
from lmx.protocol.messages import Ask, ChatPrompt, Generate, TextPrompt

LONGEST_TEXT = 64 * 1024

log = structlog.get_logger("lmx.transcripts")


class Transcripts:
    """Writes prompts and answers into the log.

    Args:
        is_wanted: Whether to, asked at each request.
    """

    def __init__(self, is_wanted: Callable[[], bool]) -> None:
        self._is_wanted = is_wanted

    def begin(self, ask: Ask, request: OpenRequest) -> None:
        """A worker is being asked; its answers are kept until `end`."""
        if not self._is_wanted():
            return
        origin = request.origin
        log.info(
            "request prompt",
            request_id=origin.request_id,
            model=request.model_id,
            prompt=_cut(_prompt_text(ask)),
        )
        for choice in request.choices:
            if choice.tally is not None:
                choice.tally.transcript = []

    def end(self, request: OpenRequest) -> None:
        """Nobody listens any more."""
        for index, choice in enumerate(request.choices):
            tally = choice.tally
            if tally is not None and tally.transcript:
                log.info(
                    "request answer",
                    request_id=request.origin.request_id,
                    model=request.model_id,
                    choice=index,
                    answer=_cut("".join(tally.transcript)),
                )


def _prompt_text(ask: Ask) -> str:
    if not isinstance(ask, Generate):
        return msgspec.json.encode(ask).decode()
    match ask.prompt:
        case ChatPrompt(messages):
            return msgspec.json.encode(messages).decode()
        case TextPrompt(text):
            return text
        case tokens:
            return str(tokens.token_ids)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
