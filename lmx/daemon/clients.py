"""What is counted of each client. Pure."""

from msgspec import Struct


class ClientCounts(Struct):
    """Requests of one client that ended, and their tokens.

    Attributes:
        requests: All that were received, the refused ones included.
        errors: Of these, those that ended with an error.
        prompt_tokens: Of those that were admitted.
        completion_tokens: Delivered.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def is_at_rest(self) -> bool:
        """Nobody keeps hold of these: they are looked up for each count."""
        return True

    def add(self, other: "ClientCounts") -> None:
        """Take over everything counted there."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
