"""``lmx serve``: settings to a running daemon."""

import faulthandler
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lmx.catalog.embedded import DEMO
from lmx.catalog.specs import parse_spec
from lmx.cli.exits import Exit
from lmx.cli.logs import configure_logging
from lmx.config import ServerSettings
from lmx.daemon.instance import hold_instance
from lmx.daemon.live import LiveSettings, SettingsSource, tell_warnings
from lmx.daemon.log_tail import LogTail
from lmx.daemon.presence import Presence
from lmx.daemon.supervision import Notifier
from lmx.errors import AlreadyRunning, ConfigError
from lmx.serve import serve

# What our service files set to the name of the program that starts the daemon.
SUPERVISOR_VARIABLE = "LMX_SUPERVISOR"
LAUNCHD = "launchd"
# Beyond its drain, until a daemon that is stopping counts as stuck.
STOP_MARGIN_S = 10.0


def run_daemon(config: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Run the daemon in this process until it stops.

    Raises:
        ConfigError: Settings cannot be used, or the address cannot be bound.
        SystemExit: Another daemon serves this home. Under launchd the status is 0, for with any
            other it would start us again and again.
    """
    faulthandler.enable()
    source = SettingsSource(file=config, overrides=overrides).settled()
    loaded = source.read()
    settings = loaded.settings
    log_tail = LogTail()
    log_level = configure_logging(settings.logging.level, log_tail)
    live = LiveSettings(source, settings, set_log_level=log_level.set)
    tell_warnings(loaded.warnings)
    try:
        with hold_instance(settings.home, wait_s=_longest_stop_s(settings.server)) as instance:
            _run(live, Presence(instance, Notifier(os.environ)), log_tail)
    except AlreadyRunning as error:
        sys.stderr.write(f"lmx: {error.message}\n")
        is_launchd = os.environ.get(SUPERVISOR_VARIABLE) == LAUNCHD
        sys.exit(Exit.OK if is_launchd else Exit.ALREADY_RUNNING)


def _run(live: LiveSettings, presence: Presence, log_tail: LogTail) -> None:
    settings = live.current
    models = settings.models
    to_load = models.load or (settings.routing.default_model or DEMO.word,)
    specs = [parse_spec(text, models.backend) for text in to_load]
    try:
        trio.run(partial(serve, live, specs, presence=presence, log_tail=log_tail))
    except OSError as error:
        address = f"{settings.server.host}:{settings.server.port}"
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error


def _longest_stop_s(server: ServerSettings) -> float:
    return server.drain_s + server.close_grace_s + STOP_MARGIN_S
