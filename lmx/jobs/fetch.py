"""One file over the network into its part: continued where it stopped, as often as needed.

A connection that breaks, hangs or is refused for the moment costs a pause and nothing that was
received. Only attempts in a row that bring nothing new are counted. Content that is not what was
announced is fetched once more from its beginning, and never kept.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import httpx2

from lmx.errors import ChecksumMismatch, HubUnreachable, ModelNotFound, RepositoryGated
from lmx.jobs.parts import PartFile

ATTEMPTS = 8
# With the doubling pause this rides out about a minute without a network.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
# A hub that asks for more patience than this gets a failed download, which can be taken up later.
LONGEST_WISH_S = 120.0
CONNECT_TIMEOUT_S = 10.0
# CloudFront, before which the hub's storage stands, gives no more than 50 GB at once.
LARGEST_RANGE_BYTES = 20 * 10**9
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Source(NamedTuple):
    """Where a file is.

    Attributes:
        client: Follows redirects, and shows the token to nobody else.
        url: The file.
        headers: What goes with every request.
        stall_s: Silence after which a connection is given up.
        range_bytes: Most that one request asks for: storages refuse larger answers.
    """

    client: httpx2.Client
    url: str
    headers: Mapping[str, str]
    stall_s: float
    range_bytes: int = LARGEST_RANGE_BYTES


class _Cut(Exception):
    """The connection brought no more; trying again makes sense."""

    def __init__(self, reason: str, wish_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wish_s = wish_s


def fetch_file(
    source: Source,
    part: PartFile,
    on_bytes: Callable[[int], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make a part whole and right.

    Args:
        source: Where the rest is.
        part: Open.
        on_bytes: Told how the part grows, in bytes; negative when it has to begin again.
        sleep: Waits.

    Raises:
        HubUnreachable: Too many attempts in a row brought nothing; the part stays.
        ChecksumMismatch: The content is not what was announced; nothing of it stays.
        ModelNotFound: The file is gone.
        RepositoryGated: Access was taken away.
    """
    for _ in range(2):
        _complete(source, part, on_bytes, sleep=sleep)
        if part.is_right:
            part.finish()
            return
        _restart(part, on_bytes)
    part.close()
    part.path.unlink()
    raise ChecksumMismatch(
        f"{part.file.path} arrived twice with another digest than announced; it was deleted"
    )


def _complete(
    source: Source,
    part: PartFile,
    on_bytes: Callable[[int], None],
    *,
    sleep: Callable[[float], None],
) -> None:
    failures, best = 0, part.size
    while not part.is_full:
        try:
            _continue(source, part, on_bytes)
        except (_Cut, httpx2.RequestError) as error:
            failures = 1 if part.size > best else failures + 1
            best = max(best, part.size)
            wish_s = error.wish_s if isinstance(error, _Cut) else 0.0
            if failures >= ATTEMPTS or wish_s > LONGEST_WISH_S:
                raise HubUnreachable(
                    f"{part.file.path} broke off {failures} times, last with: {_reason(error)}; "
                    f"the next try continues at {part.size} bytes"
                ) from error
            sleep(max(wish_s, min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)))


def _continue(source: Source, part: PartFile, on_bytes: Callable[[int], None]) -> None:
    """One request for what is missing."""
    headers = dict(source.headers)
    end = min(part.size + source.range_bytes, part.file.size_bytes)
    is_last = end == part.file.size_bytes
    if part.size or not is_last:
        headers["range"] = f"bytes={part.size}-{'' if is_last else end - 1}"
    timeout = httpx2.Timeout(source.stall_s, connect=min(source.stall_s, CONNECT_TIMEOUT_S))
    with source.client.stream("GET", source.url, headers=headers, timeout=timeout) as response:
        _check_status(response, part, on_bytes)
        if not _continues(response, part.size):
            _restart(part, on_bytes)
            end = part.file.size_bytes
        _check_length(response, part, end)
        try:
            for block in response.iter_raw():
                if part.size + len(block) > part.file.size_bytes:
                    _restart(part, on_bytes)
                    raise ChecksumMismatch(f"{part.file.path} is longer than announced")
                part.append(block)
                on_bytes(len(block))
        finally:
            part.flush()
    if part.size < end:
        raise _Cut("the body ended early")


def _check_status(
    response: httpx2.Response, part: PartFile, on_bytes: Callable[[int], None]
) -> None:
    status = response.status_code
    if status in {httpx2.codes.OK, httpx2.codes.PARTIAL_CONTENT}:
        return
    if status in PASSING:
        raise _Cut(f"status {status}", _wish_s(response))
    if status == httpx2.codes.RANGE_NOT_SATISFIABLE:
        _restart(part, on_bytes)
        raise _Cut("the file is shorter there than what is here")
    if status in {httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN}:
        raise RepositoryGated(f"the hub refuses {part.file.path} with status {status}")
    if status in {httpx2.codes.NOT_FOUND, httpx2.codes.GONE}:
        raise ModelNotFound(f"{part.file.path} is no longer there", param="repo_id")
    raise HubUnreachable(f"the hub answers with status {status} for {part.file.path}")


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Whether the body is the range that starts at `offset` (RFC 9110, section 14.4)."""
    if response.status_code != httpx2.codes.PARTIAL_CONTENT:
        return False
    found: str = response.headers.get("content-range", "")
    if not found.startswith(f"bytes {offset}-"):
        raise _Cut(f"the hub answers with a range nobody asked for: {found[:100]!r}")
    return True


def _check_length(response: httpx2.Response, part: PartFile, end: int) -> None:
    """A page of some gateway, or another file: known before it is here."""
    length = response.headers.get("content-length", "")
    if length.isdecimal() and part.size + int(length) != end:
        raise ChecksumMismatch(
            f"the hub has {part.size + int(length)} bytes for {part.file.path}, of which "
            f"{end} were announced"
        )


def _restart(part: PartFile, on_bytes: Callable[[int], None]) -> None:
    if part.size:
        on_bytes(-part.size)
        part.restart()


def _wish_s(response: httpx2.Response) -> float:
    """Seconds that the hub asks to wait."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
