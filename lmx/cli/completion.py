"""What the shell offers after a tab: the daemon's model ids.

Silent and quick: a completion that waits or complains is worse than none.
"""

from typing import Any

from lmx.errors import ConfigError

LIMIT_S = 0.5


def complete_loaded(incomplete: str) -> list[str]:
    """Ids of models that answer."""
    return _matching("loaded", incomplete)


def complete_models(incomplete: str) -> list[str]:
    """Ids of models on disk and of those that answer."""
    return _matching("models", incomplete)


def _matching(key: str, incomplete: str) -> list[str]:
    name = "path" if key == "models" else "id"
    ids = [str(row.get(name, "")) for row in _rows(key)]
    return sorted(one for one in ids if one.startswith(incomplete))


def _rows(key: str) -> list[dict[str, Any]]:
    from lmx.cli.client import Client
    from lmx.cli.exits import CommandFailed
    from lmx.cli.target import find_target

    try:
        rows = Client(find_target()).get("/admin/models", timeout_s=LIMIT_S)[key]
    except (CommandFailed, ConfigError, LookupError, TypeError):
        return []
    return [row for row in rows if isinstance(row, dict)]
