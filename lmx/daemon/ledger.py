"""Who has which bytes: memory is reserved before it is used. Pure.

It knows names and numbers, nothing of models, processes or what the machine reports. The budget
bounds what is reserved; a worker that turns out larger than its reservation, or a budget that
shrinks below what is in use, is `overdrawn`, and nothing more is reserved until that is made good.

Prefix caches only make things faster: an owner is granted what is free of what it wishes for, and
that can be taken back, all of it, for whoever needs it.
"""

from msgspec import Struct

from lmx.errors import DoesNotFit

TENTH_GB_BYTES = 10**8


class Demand(Struct, frozen=True, kw_only=True):
    """What one worker needs, in bytes.

    Attributes:
        weights: The parameters.
        kv_cache: Keys and values of all sequences it may admit together.
        transient: Work space on top, at its peak.
        prefix_cache: What it would like to keep of prompts; it can do with less, or nothing.
    """

    weights: int
    kv_cache: int = 0
    transient: int = 0
    prefix_cache: int = 0

    def __post_init__(self) -> None:
        if min(self.weights, self.kv_cache, self.transient, self.prefix_cache) < 0:
            raise ValueError(f"negative bytes: {self}")

    @property
    def total(self) -> int:
        """All that it cannot do without."""
        return self.weights + self.kv_cache + self.transient


class Ledger:
    """Reservations of memory under one budget.

    Args:
        budget_bytes: What all owners together may reserve, at least 0.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._claims: dict[str, Demand] = {}
        self._grants: dict[str, int] = {}  # prefix caches; the same owners
        self._budget = _checked_budget(budget_bytes)

    @property
    def budget(self) -> int:
        """Bytes that may be reserved."""
        return self._budget

    @property
    def owners(self) -> list[str]:
        """Who has a reservation, in the order in which they were made."""
        return list(self._claims)

    @property
    def reserved(self) -> int:
        """Bytes of all owners within the budget, prefix caches included; never above it."""
        return min(self._claimed + self._granted, self._budget)

    @property
    def overdrawn(self) -> int:
        """Bytes that owners hold beyond the budget; 0 unless one settled high or it shrank."""
        return max(0, self._claimed - self._budget)

    @property
    def free(self) -> int:
        """Bytes that can still be reserved without taking anything back."""
        return self._budget - self._claimed - self._granted

    def bytes_of(self, owner: str) -> int:
        """What comes back when `owner` is released; 0 if it has no reservation."""
        claim = self._claims.get(owner)
        return 0 if claim is None else claim.total + self._grants[owner]

    def grant_of(self, owner: str) -> int:
        """What an owner may keep of prompts."""
        return self._grants.get(owner, 0)

    def reserve(self, owner: str, demand: Demand) -> int:
        """Set bytes aside for a new owner, all of them or none, and grant what it wishes for.

        Returns:
            What it may keep of prompts: its wish, or less if less is free.

        Raises:
            DoesNotFit: More than is free; the message holds the arithmetic.
            ValueError: The owner has a reservation already.
        """
        if owner in self._claims:
            raise ValueError(f"{owner} has a reservation already")
        if demand.total > self.free:
            raise DoesNotFit(self.explain(demand))
        self._claims[owner] = demand
        self._grants[owner] = 0
        self._grants[owner] = min(demand.prefix_cache, max(0, self.free))
        return self._grants[owner]

    def take_back(self, needed_bytes: int) -> list[str]:
        """Cut grants until so many bytes are free, or none is left; the largest first.

        Returns:
            Whose have changed.
        """
        changed = []
        for owner in sorted(self._grants, key=lambda name: -self._grants[name]):
            cut = min(self._grants[owner], needed_bytes - self.free)
            if cut > 0:
                self._grants[owner] -= cut
                changed.append(owner)
        return changed

    def settle(self, owner: str, measured_bytes: int) -> int:
        """Put what a loaded worker really took in place of its weights and work space.

        What was reserved for its KV cache stays reserved.

        Args:
            owner: Who has loaded.
            measured_bytes: What it holds now, without a KV cache.

        Returns:
            Bytes now overdrawn, normally 0; otherwise the caller makes room.

        Raises:
            KeyError: The owner has no reservation.
        """
        kv_cache = self._claims[owner].kv_cache
        self._claims[owner] = Demand(weights=measured_bytes, kv_cache=kv_cache)
        return self.overdrawn

    def release(self, owner: str) -> int:
        """Give back all that an owner has. Idempotent.

        Returns:
            How many bytes that was.
        """
        released = self.bytes_of(owner)
        self._claims.pop(owner, None)
        self._grants.pop(owner, None)
        return released

    def set_budget(self, budget_bytes: int) -> int:
        """Change the budget; nobody loses a reservation by it.

        Returns:
            Bytes now overdrawn; the caller makes room.
        """
        self._budget = _checked_budget(budget_bytes)
        return self.overdrawn

    def explain(self, demand: Demand) -> str:
        """What is needed, what there is and who has it, for a person, in 10^9 bytes.

        Needs are rounded up and the rest down, so that what does not fit never looks as if it did.
        """
        use = [f"{owner} {_gb(self.bytes_of(owner))}" for owner in self._claims]
        rest = (
            f"overdrawn by {_gb_up(self.overdrawn)}"
            if self.overdrawn
            else f"free {_gb_down(self.free)}"
        )
        return (
            f"needs {_gb_up(demand.total)} GB (weights {_gb(demand.weights)}, "
            f"cache {_gb(demand.kv_cache)}, work space {_gb(demand.transient)}); "
            f"budget {_gb_down(self._budget)} GB; in use: {', '.join(use) or 'nothing'}; {rest}"
        )

    @property
    def _claimed(self) -> int:
        return sum(claim.total for claim in self._claims.values())

    @property
    def _granted(self) -> int:
        return sum(self._grants.values())


def _checked_budget(budget_bytes: int) -> int:
    if budget_bytes < 0:
        raise ValueError(f"a budget of {budget_bytes} bytes")
    return budget_bytes


def _gb(count_bytes: int) -> str:
    return _gb_down(count_bytes + TENTH_GB_BYTES // 2)


def _gb_up(count_bytes: int) -> str:
    return _gb_down(count_bytes + TENTH_GB_BYTES - 1)


def _gb_down(count_bytes: int) -> str:
    whole, tenths = divmod(count_bytes // TENTH_GB_BYTES, 10)
    return f"{whole}.{tenths}"
