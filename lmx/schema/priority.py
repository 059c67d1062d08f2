"""How urgent a request is: its field, the two headers that may say it instead, and their words.

The field is refused if it makes no sense, as every field is. Headers are set by proxies and tools
for whole fleets of requests, so one that makes no sense is as good as none.
"""

from typing import Annotated, Literal

from msgspec import Meta

MOST_PRIORITY = 100
NORMAL = 0
WORDS = {"interactive": -10, "normal": NORMAL, "batch": 10}
# The two lanes of clients that sort their own requests.
LANES = {"interactive": WORDS["interactive"], "throughput": WORDS["batch"]}

PRIORITY_HEADERS = {
    "X-Priority": "As `priority` of the body, which counts more; ignored if it makes no sense.",
    "X-Serving-Lane": "`interactive` or `throughput`, where neither of those says anything.",
}

Priority = (
    Annotated[
        int,
        Meta(
            ge=-MOST_PRIORITY,
            le=MOST_PRIORITY,
            description="LMX: whose turn it is under load; lower numbers go first.",
        ),
    ]
    | Literal["interactive", "normal", "batch"]
)


def choose_priority(asked: int | str | None, default: int) -> int:
    """A request's priority as a number.

    Args:
        asked: What its field says, valid or absent.
        default: What counts without it.
    """
    if asked is None:
        return default
    return WORDS[asked] if isinstance(asked, str) else asked


def read_priority_headers(priority: str, lane: str) -> int:
    """What headers say, the first one that makes sense.

    Args:
        priority: Of ``X-Priority``: a number or a word; empty if it is not there.
        lane: Of ``X-Serving-Lane``; likewise.
    """
    said = priority.strip().lower()
    if said in WORDS:
        return WORDS[said]
    try:
        number = int(said)
    except ValueError:
        return LANES.get(lane.strip().lower(), NORMAL)
    return max(-MOST_PRIORITY, min(MOST_PRIORITY, number))
