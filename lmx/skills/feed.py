"""What an answer of several turns says, from who has it to who wants it. Never blocks."""

from collections.abc import Sequence

from lmx.daemon.dispatch import Reply
from lmx.protocol.values import Usage
from lmx.schema.chat_documents import LoopEnd
from lmx.schema.reply import sum_usage
from lmx.schema.skill_documents import SkillEvent
from lmx.skills.turn import Listener, Parser, Spoken, Turn

LoopItem = Spoken | SkillEvent | LoopEnd
# Between the texts of two turns, which a client shows as one.
PARAGRAPH = "\n\n"


class LoopFeed:
    """The items of one answer, in order.

    Attributes:
        on_change: Told synchronously when `take` has something new; must not raise.
        turn: The turn that is open, if one is.
        usages: Token counts of the turns that are over.
    """

    def __init__(self) -> None:
        self.on_change: Listener | None = None
        self.turn: Turn | None = None
        self.usages: list[Usage] = []
        self._items: list[LoopItem] = []
        self._has_text = False

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        open_turn = [] if self.turn is None else [self.turn.usage]
        return sum_usage([*self.usages, *open_turn])

    def take(self) -> Sequence[LoopItem]:
        """Everything new, in order."""
        items, self._items = self._items, []
        spoken = None if self.turn is None else self.turn.take()
        return items if spoken is None else [*items, spoken]

    def add(self, item: LoopItem) -> None:
        """Something new."""
        self._items.append(item)
        self.tell()

    def open_turn(self, reply: Reply, parser: Parser) -> Turn:
        """What a reply says comes from now on."""
        separator = PARAGRAPH if self._has_text else ""
        self.turn = Turn(reply, parser, self.tell, separator=separator)
        return self.turn

    def close_turn(self) -> None:
        """The open turn is over, or cut off."""
        turn = self.turn
        if turn is None:
            return
        self._items += turn.finish()
        self.usages.append(turn.usage)
        self._has_text = self._has_text or bool(turn.text)
        self.turn = None
        self.tell()

    def tell(self) -> None:
        """There is something new."""
        if self.on_change is not None:
            self.on_change()
