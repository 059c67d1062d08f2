"""``lmx serve``: settings to a running daemon."""

import faulthandler
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from lmx.catalog.embedded import DEMO
from lmx.catalog.specs import parse_spec
from lmx.cli.exits import Exit
from lmx.cli.logs import open_log
from lmx.config import Loaded, ServerSettings
from lmx.daemon.instance import Instance, hold_instance
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

log = structlog.get_logger("lmx.serve")


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
    try:
        with hold_instance(settings.home, wait_s=_longest_stop_s(settings.server)) as instance:
            _run(source, loaded, instance)
    except AlreadyRunning as error:
        sys.stderr.write(f"lmx: {error.message}\n")
        is_launchd = os.environ.get(SUPERVISOR_VARIABLE) == LAUNCHD
        sys.exit(Exit.OK if is_launchd else Exit.ALREADY_RUNNING)


def _run(source: SettingsSource, loaded: Loaded, instance: Instance) -> None:
    settings = loaded.settings
    models = settings.models
    to_load = models.load or (settings.routing.default_model or DEMO.word,)
    specs = [parse_spec(text, models.backend) for text in to_load]
    presence = Presence(instance, Notifier(os.environ))
    log_tail = LogTail()
    with open_log(settings.logging, log_tail) as control:
        live = LiveSettings(source, settings, set_log_level=control.level.set)
        control.blotter.keys = partial(_known_keys, live)
        tell_warnings(loaded.warnings)
        if instance.left is not None:
            left = {"pid": instance.left.pid, "host": instance.left.host}
            log.warning("took over the lock of a daemon that died", **left)
        try:
            trio.run(partial(serve, live, specs, presence=presence, log_tail=log_tail))
        except OSError as error:
            address = f"{settings.server.host}:{settings.server.port}"
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error


def _known_keys(live: LiveSettings) -> list[str]:
    """What must not be in the log, whoever says it."""
    security = live.current.security
    token = os.environ.get(live.current.downloads.token_env, "")
    return [*security.admin_keys, *security.inference_keys, token]


def _longest_stop_s(server: ServerSettings) -> float:
    return server.drain_s + server.close_grace_s + STOP_MARGIN_S
