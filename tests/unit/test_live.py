"""Settings are read again from where they came; what can change does, mistakes change nothing."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from lmx.config import SecuritySettings
from lmx.daemon.live import LiveSettings, Reloaded, SettingsSource
from lmx.daemon.telemetry import DaemonEvent, Telemetry
from lmx.errors import ConfigError
from lmx.web.machine import reload_settings

HAND_INSERTED = """\
# mine
security:
  inference_api_key: opta_sk_by-hand
  admin_key: "adm"   # quoted
server:
  port: 1
"""


class Daemon:
    """Live settings of a home directory, and the log levels they set."""

    def __init__(self, home: Path, **source: Any) -> None:
        self.file = home / "config.yaml"
        self.levels: list[str] = []
        environment = {"LMX_HOME": str(home), **source.pop("variables", {})}
        origin = SettingsSource(environment=environment, **source).settled()
        self.live = LiveSettings(origin, origin.load(), set_log_level=self.levels.append)

    async def rewrite(self, text: str) -> Reloaded:
        """Write the file and reload."""
        self.file.write_text(text)
        return await self.live.reload()


async def test_a_key_inserted_by_hand_works(tmp_path: Path) -> None:
    """As `opta key create` inserts it: two blanks, below `security:`."""
    (tmp_path / "config.yaml").write_text("security:\n  admin_key: adm\nserver:\n  port: 1\n")
    daemon = Daemon(tmp_path)
    assert Reloaded(["security.inference_api_key"], []) == await daemon.rewrite(HAND_INSERTED)
    security = daemon.live.current.security
    assert (("adm",), ("opta_sk_by-hand",)) == (security.admin_keys, security.inference_keys)


async def test_what_takes_effect_and_what_does_not(tmp_path: Path) -> None:
    """Sections that need a restart are told at every reload until there is one."""
    daemon = Daemon(tmp_path)
    text = (
        "logging: {level: debug, format: json}\nserver: {port: 2, heartbeat_s: 3}\n"
        "models: {max_waiting: 3, load: [x]}\ndevice: {role: x}"
    )
    waiting = ["server.port", "models.load", "logging.format"]
    updated = ["server.heartbeat_s", "models.max_waiting", "logging.level", "device.role"]
    changed = await daemon.rewrite(text)
    assert Reloaded(updated, waiting) == changed
    assert ["server", "models", "logging", "device"] == changed.updated
    assert ["server", "models", "logging"] == changed.needs_restart
    assert Reloaded([], waiting) == await daemon.rewrite(text)
    current = daemon.live.current
    assert (1234, 3.0, 3) == (
        current.server.port,
        current.server.heartbeat_s,
        current.models.max_waiting,
    )
    assert "debug" == daemon.levels[-1]
    assert Reloaded(updated, []) == await daemon.rewrite("")
    assert "info" == daemon.levels[-1]


async def test_environment_and_command_line_still_win(tmp_path: Path) -> None:
    """They are read again as well, in the same order."""
    (tmp_path / "config.yaml").write_text("security: {admin_key: file}")
    variables = {"LMX_SECURITY__ADMIN_KEY": "123"}
    daemon = Daemon(tmp_path, variables=variables, overrides={"logging": {"level": "error"}})
    changed = await daemon.rewrite("security: {admin_key: other}\nlogging: {level: debug}")
    assert Reloaded([], []) == changed
    current = daemon.live.current
    assert (("123",), "error") == (current.security.admin_keys, current.logging.level)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("security: {admin_key: 5}", "admin_key"),
        ("security: {admin_kee: x}", "admin_kee"),
        ("security:\n  admin_key: adm\n   inference_api_key: x", "line 3"),
        ("logging: {level: loud}\nsecurity: {admin_key: new}", "level"),
        ("models: {dialects: {a: no-such}}", "no-such"),
        ("models: {load: ['fake:']}", "load"),
        ("{", "config.yaml"),
        (None, "config.yaml"),
    ],
)
async def test_a_mistake_changes_nothing(tmp_path: Path, text: str | None, names: str) -> None:
    """The error names it, and keys stay in force; a file that is gone is a mistake, too."""
    file = tmp_path / "config.yaml"
    file.write_text("security: {admin_key: adm}")
    daemon = Daemon(tmp_path)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    before = daemon.live.current
    with pytest.raises(ConfigError, match=names):
        await daemon.live.reload()
    assert before is daemon.live.current
    assert Reloaded([], []) == await daemon.rewrite("security: {admin_key: adm}")


async def test_a_file_that_appears_is_read_and_must_stay(tmp_path: Path) -> None:
    """Nobody loses keys because a file vanishes that was not there at the start."""
    daemon = Daemon(tmp_path)
    assert Reloaded([], []) == await daemon.live.reload()
    assert Reloaded(["security.admin_key"], []) == await daemon.rewrite(
        "security: {admin_key: adm}"
    )
    daemon.file.unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        await daemon.live.reload()
    assert ("adm",) == daemon.live.current.security.admin_keys


async def test_every_file_that_was_read_must_stay(tmp_path: Path) -> None:
    """Also the TOML file of the help pages, which may hold the keys."""
    toml = tmp_path / ".config/opta/lmx/config.toml"
    toml.parent.mkdir(parents=True)
    toml.write_text('[server]\nadmin_key = "adm"\n')
    daemon = Daemon(tmp_path, variables={"HOME": str(tmp_path)})
    toml.unlink()
    with pytest.raises(ConfigError, match=r"config\.toml: it was there before"):
        await daemon.rewrite("server: {port: 1}\n")
    assert ("adm",) == daemon.live.current.security.admin_keys


async def test_nobody_else_changes_settings(tmp_path: Path) -> None:
    """The object stays, its sections are new after a reload, and it is frozen for all others."""
    daemon = Daemon(tmp_path)
    current, models = daemon.live.current, daemon.live.current.models
    await daemon.rewrite("models: {max_waiting: 3}")
    assert current is daemon.live.current
    assert (3, 512) == (current.models.max_waiting, models.max_waiting)
    with pytest.raises(AttributeError):
        setattr(current, "models", models)  # noqa: B010  # the type forbids it, too


async def test_the_same_file_is_read(tmp_path: Path) -> None:
    """One that was named is read again, whatever else there is."""
    named = tmp_path / "other.yaml"
    named.write_text("")
    daemon = Daemon(tmp_path, file=named)
    assert Reloaded([], []) == await daemon.rewrite("security: {admin_key: adm}")
    named.write_text("security: {admin_key: named}")
    assert Reloaded(["security.admin_key"], []) == await daemon.live.reload()
    assert ("named",) == daemon.live.current.security.admin_keys


async def test_reloads_come_one_after_another(tmp_path: Path) -> None:
    """Of many at once, each applies what it read before the next one reads."""
    daemon = Daemon(tmp_path)
    daemon.file.write_text("security: {admin_key: adm}")
    results: list[Reloaded] = []

    async def reload() -> None:
        results.append(await daemon.live.reload())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reload)
    assert 1 == results.count(Reloaded(["security.admin_key"], []))
    assert 4 == results.count(Reloaded([], []))


async def test_subscribers_hear_of_a_reload(tmp_path: Path) -> None:
    """What took effect, and what is in force now; a mistake is no reload."""
    daemon, telemetry = Daemon(tmp_path), Telemetry()
    with telemetry.subscribe() as events:
        daemon.file.write_text("logging: {level: loud}")
        with pytest.raises(ConfigError):
            await reload_settings(daemon.live, telemetry)
        daemon.file.write_text(
            "logging: {level: debug}\nmemory: {critical_percent: 95}\n"
            "routing: {aliases: {fast: org/x}}\nserver: {port: 1}"
        )
        changed = await reload_settings(daemon.live, telemetry)
        assert ["server.port"] == changed.needs_restart_keys
        fields = {
            "updated": ["memory", "logging", "routing"],
            "routing_aliases": {"fast": "org/x"},
            "memory_threshold": 95.0,
            "log_level": "debug",
        }
        assert DaemonEvent("config_reloaded", fields) == events.receive_nowait()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


def test_nothing_shows_keys(tmp_path: Path) -> None:
    """Neither settings nor where they came from, at any depth."""
    variables = {"LMX_SECURITY__ADMIN_KEY": "k-admin", "LMX_SECURITY__INFERENCE_API_KEY": "k-inf"}
    source = SettingsSource(environment={"LMX_HOME": str(tmp_path), **variables})
    settings = source.load()
    assert ("k-admin",) == settings.security.admin_keys
    shown = f"{settings!r} {settings} {source!r} {msgspec.structs.astuple(settings)}"
    assert "k-" not in shown.replace(str(tmp_path), "")
    assert "1 admin, 1 inference" in repr(SecuritySettings(admin_key="a", inference_api_key="b"))
