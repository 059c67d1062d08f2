"""What is counted of each skill. Pure."""

from collections import Counter

from msgspec import Struct, field

from lmx.skills.outcome import Ending


class RunCounts(Struct):
    """Calls of one skill that ended.

    Attributes:
        endings: How many, by how they ended.
    """

    endings: Counter[Ending] = field(default_factory=Counter)

    @property
    def is_at_rest(self) -> bool:
        """Nobody keeps hold of these: they are looked up for each count."""
        return True

    def add(self, other: "RunCounts") -> None:
        """Take over everything counted there."""
        self.endings.update(other.endings)
