"""``lmx serve``: settings to a running daemon."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lmx.catalog.specs import DEMO, parse_spec
from lmx.cli.logs import configure_logging
from lmx.config import load_settings
from lmx.daemon.log_tail import LogTail
from lmx.errors import ConfigError
from lmx.serve import serve
from lmx.text.dialects import dialect_setting


def run_daemon(config: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Run the daemon in this process until it stops.

    Raises:
        ConfigError: Settings cannot be used, or the address cannot be bound.
    """
    settings = load_settings(file=config, overrides=overrides)
    log_tail = LogTail()
    configure_logging(settings.logging.level, log_tail)
    for setting in settings.models.dialects.values():
        dialect_setting(setting)  # a name that does not exist is told before anything starts
    models = settings.models
    specs = [parse_spec(text, models.backend) for text in models.load or (DEMO,)]
    try:
        trio.run(partial(serve, settings, specs, log_tail=log_tail))
    except OSError as error:
        address = f"{settings.server.host}:{settings.server.port}"
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
