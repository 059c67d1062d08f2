"""Which loaded models leave, to make room or for being idle. Pure: times come in, ids go out."""

from collections.abc import Iterable

from msgspec import Struct


class Resident(Struct, frozen=True, kw_only=True):
    """A loaded model as a candidate for leaving. Times are seconds of any one clock.

    Attributes:
        id: Its name.
        bytes: What comes free when it leaves.
        last_used_s: When a request last came or went.
        ready_since_s: When it came up.
        holders: Requests from their admission to their last byte, and requests that wait for it.
        is_pinned: It never leaves to make room.
    """

    id: str
    bytes: int
    last_used_s: float
    ready_since_s: float
    holders: int = 0
    is_pinned: bool = False


def choose_victims(
    residents: Iterable[Resident],
    needed_bytes: int,
    *,
    now_s: float,
    min_residency_s: float,
    may_drain_busy: bool = False,
) -> list[str] | None:
    """Decide who leaves so that `needed_bytes` come free.

    The least recently used go first, and none goes whose leaving the others make unnecessary. The
    caller makes a busy one finish what it has before it goes.

    Args:
        residents: Everybody who is loaded.
        needed_bytes: What is missing; at 0 and below nobody leaves.
        now_s: The time now.
        min_residency_s: How long a model stays after it came up, against models that push each
            other out in turns; 0 when a person asked for the room.
        may_drain_busy: Where the idle ones do not suffice, take ones that requests hold as well.

    Returns:
        Ids in the order in which they leave, idle ones first; `None` if all that may leave would
        not suffice.
    """
    candidates = sorted(
        (
            resident
            for resident in residents
            if not resident.is_pinned
            and now_s - resident.ready_since_s >= min_residency_s
            and (may_drain_busy or not resident.holders)
        ),
        key=lambda resident: (resident.holders > 0, resident.last_used_s, resident.id),
    )
    victims: list[Resident] = []
    for candidate in candidates:
        if needed_bytes <= 0:
            break
        victims.append(candidate)
        needed_bytes -= candidate.bytes
    return None if needed_bytes > 0 else _without_unnecessary(victims, spare_bytes=-needed_bytes)


def is_expired(last_used_s: float, *, keep_alive_s: float | None, now_s: float) -> bool:
    """Whether a model that nobody holds has been idle for too long.

    Args:
        last_used_s: When a request last came or went, or when it came up.
        keep_alive_s: Idle time it is kept; 0 for none at all, `None` or negative for ever.
        now_s: The time now.
    """
    return keep_alive_s is not None and 0 <= keep_alive_s <= now_s - last_used_s


def _without_unnecessary(victims: list[Resident], *, spare_bytes: int) -> list[str]:
    """Keep those who were used last, or are busy, as far as the others suffice."""
    needed: list[str] = []
    for victim in reversed(victims):
        if victim.bytes <= spare_bytes:
            spare_bytes -= victim.bytes
        else:
            needed.append(victim.id)
    return needed[::-1]
