"""``lmx serve``: settings to a running daemon."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lmx.catalog.embedded import DEMO
from lmx.catalog.specs import parse_spec
from lmx.cli.logs import configure_logging
from lmx.daemon.live import LiveSettings, SettingsSource
from lmx.daemon.log_tail import LogTail
from lmx.errors import ConfigError
from lmx.serve import serve


def run_daemon(config: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Run the daemon in this process until it stops.

    Raises:
        ConfigError: Settings cannot be used, or the address cannot be bound.
    """
    source = SettingsSource(file=config, overrides=overrides).settled()
    settings = source.load()
    log_tail = LogTail()
    log_level = configure_logging(settings.logging.level, log_tail)
    live = LiveSettings(source, settings, set_log_level=log_level.set)
    models = settings.models
    to_load = models.load or (settings.routing.default_model or DEMO.word,)
    specs = [parse_spec(text, models.backend) for text in to_load]
    try:
        trio.run(partial(serve, live, specs, log_tail=log_tail))
    except OSError as error:
        address = f"{settings.server.host}:{settings.server.port}"
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
