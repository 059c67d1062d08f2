"""Checks of ``lmx doctor`` that need no daemon: settings, home, disk, libraries, models, lock, log.

Each looks at one thing and changes nothing that stays. What cannot be looked at is a finding, too.
"""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from lmx.catalog.inventory import InventoryRow
from lmx.catalog.scan import Inventory
from lmx.cli.finding import Finding, fail, ok, warn
from lmx.cli.words import duration_text, size_text
from lmx.config import Settings, load
from lmx.daemon.instance import lock_path, read_lock
from lmx.errors import ConfigError
from lmx.skills.box.plan import BoxCapability

PACKAGE = "opta-lmx"
# Extras whose libraries LMX runs models with, where they are installed.
RUN_EXTRAS = ("", "gguf")
GIGA = 10**9
# Room for logs, caches and a small model; a large one needs what it is long.
LEAST_FREE_BYTES = 1 * GIGA
SCARCE_FREE_BYTES = 10 * GIGA
NAMED_MODELS = 5
CLOCKS_APART_S = 60.0
# A clock before this is not set: LMX did not exist.
FIRST_SENSIBLE_S = 1_735_689_600.0

Installed = Callable[[str], str | None]


def check_settings(environment: Mapping[str, str], home: Path) -> tuple[Settings, list[Finding]]:
    """The settings, or the defaults where they cannot be read; and what in them has no effect."""
    try:
        loaded = load(environment=environment)
    except ConfigError as error:
        advice = (
            "correct it; `lmx config check` looks again, docs/configuration.md has every setting"
        )
        return Settings(home=home), [fail("settings", error.message, advice)]
    files = ", ".join(str(file) for file in loaded.files)
    found = [ok("settings", files or f"the defaults; there is no {home / 'config.yaml'}")]
    advice = "correct or remove it; `lmx config show --origin` shows what holds"
    found += [warn("settings", str(warning), advice) for warning in loaded.warnings]
    return loaded.settings, found


def check_home(home: Path) -> Finding:
    """Whether state can be written."""
    parent = _existing(home)
    try:
        for folder in {parent, _existing(home / "models")}:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        return fail(
            "home",
            f"{home} cannot be written to: {error.strerror or error}",
            f'give this user the directory, as with `chown -R "$USER" {home}`, or set LMX_HOME '
            "to another one",
        )
    return ok("home", f"{home} can be written to")


def check_disk(settings: Settings, free_bytes: Callable[[Path], int] | None = None) -> Finding:
    """Whether there is room for models."""
    place = _existing(settings.home)
    try:
        free = (free_bytes or _free_bytes)(place)
    except OSError as error:
        return fail("disk", f"{place} cannot be looked at: {error.strerror}", "look at the disk")
    kept = round(settings.downloads.keep_free_gb * GIGA)
    found = f"{size_text(free)} are free at {place}"
    if free < max(LEAST_FREE_BYTES, kept):
        wanted = f"{found}, less than the {size_text(max(LEAST_FREE_BYTES, kept))} to be left"
        advice = "delete models with `lmx rm`, or set LMX_HOME to a larger disk"
        return fail("disk", wanted, advice)
    if free < SCARCE_FREE_BYTES:
        return warn("disk", found, "large models will not fit; `lmx list` shows what takes room")
    return ok("disk", found)


def check_libraries(
    requirements: Iterable[str] | None = None, installed: Installed | None = None
) -> Finding:
    """Whether the libraries are of the versions that LMX was made for."""
    installed = installed or _installed
    if requirements is None:
        try:
            requirements = importlib.metadata.requires(PACKAGE) or ()
        except importlib.metadata.PackageNotFoundError:
            return warn("libraries", "LMX is not installed as a package", "pip install it")
    wrong, count = [], 0
    for requirement in _wanted(requirements):
        version = installed(requirement.name)
        count += version is not None
        if version is None and not requirement.marker_is_extra:
            wrong.append(f"{requirement.name} is missing")
        elif version is not None and not requirement.allows(version):
            wrong.append(f"{requirement.name} is {version}, {requirement.specifier} is needed")
    if wrong:
        advice = "install LMX again, as with `pip install --upgrade opta-lmx`"
        return fail("libraries", "; ".join(wrong), advice)
    return ok("libraries", f"{count} libraries are of the right versions")


def check_models(settings: Settings, *, loaded_count: int) -> list[Finding]:
    """Whether there are models, and whether their files are whole."""
    scan = Inventory(settings.home, settings.models.folders).scan()
    good = [row for row in scan.rows if row.status == "complete"]
    bad = [row for row in scan.rows if row.status in {"incomplete", "unreadable"}]
    findings = [_broken(row) for row in bad[:NAMED_MODELS]]
    if len(bad) > NAMED_MODELS:
        more = f"{len(bad) - NAMED_MODELS} more models are damaged or incomplete"
        findings.append(fail("models", more, "`lmx list` shows them"))
    if good or loaded_count:
        findings.append(ok("models", f"{len(good)} on disk, {loaded_count} loaded"))
    else:
        advice = "`lmx import demo` fetches a small one, `lmx pull ORG/NAME` any other"
        findings.append(fail("models", "there is no model on this machine", advice))
    findings += [
        warn("models", problem, "correct models.folders, or make the folder readable")
        for problem in scan.problems
    ]
    return findings


def check_lock(home: Path, *, answers: bool, now_s: float) -> Finding:
    """Whether a daemon holds the home, or one that died has left its lock."""
    try:
        lock = read_lock(home)
    except OSError as error:
        return fail(
            "lock", f"{lock_path(home)} cannot be read: {error.strerror}", f"remove {home}/lmx.lock"
        )
    holder = lock.holder
    if lock.is_stale and holder is not None:
        age = duration_text(now_s - holder.at)
        return warn(
            "lock",
            f"pid {holder.pid} on {holder.host or 'this machine'} left a stale lock {age} ago",
            "the next `lmx serve` takes it over; look into the log for why it died",
        )
    if holder is not None and not answers:
        return fail(
            "lock",
            f"{holder} holds {home}, but does not answer where it was asked",
            f"use --url with its address, or end it with `kill {holder.pid}`",
        )
    return ok("lock", f"held by {holder}" if holder else "nobody holds the home")


def check_log(settings: Settings) -> Finding:
    """Whether the log has a place that is put away before it fills the disk."""
    logging, path = settings.logging, settings.logging.path
    if path is None:
        return ok("log", "goes to standard error; the service manager keeps it")
    try:
        with tempfile.TemporaryFile(dir=_existing(path.parent)):
            pass
    except OSError as error:
        found = f"{path} cannot be written: {error.strerror or error}"
        return fail("log", found, "set logging.file to a place that this user may write to")
    if not logging.max_mb:
        return warn("log", f"{path} grows without end", "set logging.max_mb")
    return ok("log", f"{path}, {logging.backups} old ones of {logging.max_mb:g} MB are kept")


def check_containment(settings: Settings, capability: BoxCapability) -> Finding:
    """Whether skills are kept in a box."""
    if not settings.skills.enabled:
        return ok("skills", "switched off")
    if capability.is_contained:
        return ok("skills", capability.reason)
    if settings.skills.sandbox == "require":
        advice = "set skills.sandbox to auto, or allow containment on this machine"
        return fail("skills", capability.reason, advice)
    return warn("skills", capability.reason, "skills ask for approval here; trust none blindly")


def check_clock(now_s: float, daemon_s: float | None) -> Finding:
    """Whether this machine knows the time, and agrees with the daemon's."""
    if now_s < FIRST_SENSIBLE_S:
        return fail("clock", "this machine's clock is years behind", "set it, as with NTP")
    apart_s = 0.0 if daemon_s is None else abs(now_s - daemon_s)
    if apart_s > CLOCKS_APART_S:
        found = f"this machine and the daemon's differ by {duration_text(apart_s)}"
        return warn("clock", found, "set both, as with NTP; idle times are wrong until then")
    return ok("clock", "is set")


class _Wanted:
    """A requirement that holds on this machine."""

    def __init__(self, requirement: Requirement, *, is_extra: bool) -> None:
        self.name = requirement.name
        self.specifier = str(requirement.specifier)
        self.marker_is_extra = is_extra
        self._requirement = requirement

    def allows(self, version: str) -> bool:
        return self._requirement.specifier.contains(version, prereleases=True)


def _wanted(requirements: Iterable[str]) -> list[_Wanted]:
    found = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # of a later version of the format
        marker = requirement.marker
        holds = [
            extra for extra in RUN_EXTRAS if marker is None or marker.evaluate({"extra": extra})
        ]
        if holds:
            found.append(_Wanted(requirement, is_extra="" not in holds))
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken(row: InventoryRow) -> Finding:
    advice = f"fetch it again with `lmx pull {row.id}`, or delete it with `lmx rm {row.id}`"
    return fail("models", f"{row.id} is {row.status}: {row.reason}", advice)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free
