"""``lmx doctor`` finds what was planted, says what to do about it, and ends with 1."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lmx.cli.machine_checks import (
    check_clock,
    check_containment,
    check_disk,
    check_home,
    check_libraries,
    check_lock,
    check_log,
)
from lmx.config import LoggingSettings, Settings, SkillSettings
from lmx.daemon.instance import hold_instance
from lmx.skills.box.plan import BoxCapability
from tests.cli_fakes import FakeDaemon, fake_daemon, refusal, run_lmx
from tests.daemon_process import REPOSITORY
from tests.model_folders import make_mlx, write

LIMIT_S = 60.0
# Above any process id that Linux or macOS gives.
NO_PID = 2**22 + 7
UNCONTAINED = BoxCapability(is_contained=False, reason="Runs are not contained.")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one model that is whole."""
    make_mlx(tmp_path / "home" / "models" / "org" / "good")
    return tmp_path / "home"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A daemon that is well."""
    with fake_daemon() as daemon:
        daemon.answers = {
            "GET /healthz": {"status": "ok", "version": "1.0"},
            "GET /admin/status": {"loaded_models": 1},
        }
        yield daemon


def checks(
    home: Path, url: str, environment: Mapping[str, str] | None = None
) -> tuple[int, list[Any]]:
    """Exit status and all checks, as the command gives them in this process."""
    own = {"HOME": str(home), "HF_HOME": str(home / "hub"), "LMX_URL": url}
    outcome = run_lmx("doctor", "--json", home=home, environment=own | dict(environment or {}))
    return outcome.status, judged(outcome.document)


def judged(document: Any) -> list[Any]:
    """The checks of a document that agrees with itself."""
    found = document["checks"]
    assert document["ok"] == all(check["state"] != "fail" for check in found)
    assert all(check["advice"] for check in found if check["state"] != "ok")
    return list(found)


def doctor(
    home: Path, url: str, environment: Mapping[str, str] | None = None
) -> tuple[int, list[Any]]:
    """Exit status and the checks that are not well; what contains skills is the machine's own."""
    status, found = checks(home, url, environment)
    bad = [check for check in found if check["state"] != "ok"]
    return status, [check for check in bad if check["name"] != "skills"]


def fault(home: Path, url: str, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Name and words of the one failure that doctor finds."""
    status, bad = doctor(home, url, environment)
    assert 1 == status
    (found,) = [check for check in bad if check["state"] == "fail"]
    return found["name"], found["found"]


@contextmanager
def stranger(*, is_silent: bool) -> Iterator[str]:
    """Another program's port: one that takes no connection, or one that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if is_silent:
            listener.close()
            with socket.socket() as holder:
                holder.bind(("127.0.0.1", 0))
                yield f"http://127.0.0.1:{holder.getsockname()[1]}"
        else:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_machine_that_is_well(daemon: FakeDaemon, home: Path) -> None:
    """Nothing to do: status 0."""
    assert (0, []) == doctor(home, daemon.url)


def test_an_unreachable_daemon(home: Path) -> None:
    """Fault 1: nobody listens."""
    with fake_daemon() as daemon:
        pass
    assert ("daemon", f"no daemon answers at {daemon.url}") == fault(home, daemon.url)


@pytest.mark.parametrize("is_bound_only", [False, True])
def test_a_port_that_another_program_has(home: Path, *, is_bound_only: bool) -> None:
    """Fault 2: it answers as something else, or takes no connection at all."""
    if is_bound_only:
        with stranger(is_silent=True) as url:
            found = fault(home, url)
    else:
        with fake_daemon() as other:
            other.answers["GET /healthz"] = {"hello": "world"}
            found = fault(home, other.url)
    assert "port" == found[0]
    assert "is taken by another program" in found[1]


def test_a_program_that_hangs(home: Path) -> None:
    """It takes the connection and says nothing."""
    with stranger(is_silent=False) as url:
        name, found = fault(home, url)
    assert ("daemon", True) == (name, "takes connections and says nothing" in found)


def test_no_model(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Fault 3: neither on disk nor loaded."""
    daemon.answers["GET /admin/status"] = {"loaded_models": 0}
    assert ("models", "there is no model on this machine") == fault(tmp_path / "new", daemon.url)


def test_a_broken_model(daemon: FakeDaemon, home: Path) -> None:
    """Fault 4: files that are missing or damaged, by the model's id."""
    write(make_mlx(home / "models" / "org" / "bad") / "config.json", "{")
    name, found = fault(home, daemon.url)
    assert ("models", True) == (name, found.startswith("org/bad is unreadable: "))


def test_bad_settings(daemon: FakeDaemon, home: Path) -> None:
    """Fault 5: with the file and the key, never with the value."""
    write(home / "config.yaml", "server:\n  port: s3cret\n")
    name, found = fault(home, daemon.url)
    assert ("settings", True, False) == (name, "port" in found, "s3cret" in found)


def test_settings_without_effect(daemon: FakeDaemon, home: Path) -> None:
    """A misspelt key is a warning that names the nearest one; nothing fails."""
    write(home / "config.yaml", "memory: {budget_bg: 4}\n")
    status, (found,) = doctor(home, daemon.url)
    assert (0, "settings", "warn") == (status, found["name"], found["state"])
    assert "budget_gb" in found["found"]


def test_a_full_disk(daemon: FakeDaemon, home: Path) -> None:
    """Fault 6: less is free than settings want to be left."""
    write(home / "config.yaml", "downloads: {keep_free_gb: 100000}\n")
    name, found = fault(home, daemon.url)
    assert ("disk", True) == (name, "less than the 100 TB to be left" in found)
    assert "fail" == check_disk(Settings(home=home), lambda _: 10**8).state
    assert "warn" == check_disk(Settings(home=home), lambda _: 5 * 10**9).state


def test_a_wrong_key(daemon: FakeDaemon, home: Path) -> None:
    """Fault 7: the daemon refuses the one that was given, or wants one."""
    daemon.answers["GET /admin/status"] = (403, refusal("unauthorized", "the admin key is wrong"))
    name, found = fault(home, daemon.url, {"OPTA_ADMIN_KEY": "guess"})
    assert ("key", True) == (name, found.startswith("the daemon refuses a wrong key"))
    assert fault(home, daemon.url)[1].startswith("the daemon refuses no key")


def test_an_old_library(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    """Fault 8: an installed version that the requirements exclude, as Python finds it."""
    old = tmp_path / "site" / "huggingface_hub-0.1.0.dist-info" / "METADATA"
    write(old, "Metadata-Version: 2.1\nName: huggingface_hub\nVersion: 0.1.0\n")
    own = {"HF_HOME": str(home / "hub"), "LMX_HOME": str(home), "LMX_URL": daemon.url}
    process = subprocess.run(
        [sys.executable, "-m", "lmx", "doctor", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, **own, "HOME": str(home), "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    (found,) = [one for one in judged(json.loads(process.stdout)) if one["state"] == "fail"]
    assert (1, "libraries") == (process.returncode, found["name"])
    assert re.match(r"huggingface.hub is 0\.1\.0, >=2.* is needed", found["found"])


def test_requirements_are_judged_as_pip_does() -> None:
    """Markers hold or not; an extra counts only where it is installed; what is missing is told."""
    wanted = ["a>=2", "b==1.*; sys_platform == 'nowhere'", "c==3; extra == 'gguf'", "d; extra=='x'"]
    assert "ok" == check_libraries(wanted, {"a": "2.1"}.get).state
    assert "a is missing" == check_libraries(wanted, {}.get).found
    assert "c is 2, ==3 is needed" == check_libraries(wanted, {"a": "2", "c": "2"}.get).found


def test_no_write_permission(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Fault 9: the home is not this user's to write, or a file is in its way."""
    in_the_way = write(tmp_path / "file", b"x")
    assert "fail" == check_home(in_the_way / "home").state
    make_mlx(tmp_path / "home" / "models" / "org" / "good")
    (tmp_path / "home" / "models").chmod(0o555)
    if os.geteuid() == 0:  # who may write anywhere, except where nothing can be written
        assert "fail" == check_home(Path("/proc/lmx")).state
    else:
        assert "home" == fault(tmp_path / "home", daemon.url)[0]
    (tmp_path / "home" / "models").chmod(0o755)


def test_a_stale_lock(daemon: FakeDaemon, home: Path) -> None:
    """Fault 10: a daemon that died left its name; nothing fails, for the next start takes over."""
    holder = {"pid": NO_PID, "host": socket.gethostname(), "at": 1.0, "started": "long ago"}
    write(home / "lmx.lock", holder)
    status, (found,) = doctor(home, daemon.url)
    assert (0, "lock", "warn") == (status, found["name"], found["state"])
    assert found["found"].startswith(f"pid {NO_PID} on ")
    assert "takes it over" in found["advice"]


def test_a_lock_whose_holder_does_not_answer(tmp_path: Path) -> None:
    """It lives, but not where it was asked; held by one that answers, all is well."""
    with hold_instance(tmp_path, wait_s=0.0):
        assert "fail" == check_lock(tmp_path, answers=False, now_s=0.0).state
        assert "ok" == check_lock(tmp_path, answers=True, now_s=0.0).state


def test_where_the_log_goes(tmp_path: Path) -> None:
    """A file that grows without end is a warning, one that cannot be written a failure."""

    def check(file: Path, max_mb: float) -> str:
        logging = LoggingSettings(file=str(file), max_mb=max_mb)
        return check_log(Settings(home=tmp_path, logging=logging)).state

    in_the_way = write(tmp_path / "file", b"x")
    assert ("ok", "warn") == (check(tmp_path / "a.log", 1.0), check(tmp_path / "a.log", 0.0))
    assert "fail" == check(in_the_way / "a.log", 1.0)


def test_skills_that_nothing_contains(tmp_path: Path) -> None:
    """A warning; a failure where settings demand containment; nothing where there are no skills."""

    def check(skills: SkillSettings) -> str:
        return check_containment(Settings(home=tmp_path, skills=skills), UNCONTAINED).state

    assert "warn" == check(SkillSettings())
    assert "fail" == check(SkillSettings(sandbox="require"))
    assert "ok" == check(SkillSettings(enabled=False))


def test_whose_machine_is_looked_at(daemon: FakeDaemon, home: Path) -> None:
    """This one where settings or a loopback address say so; of others only the daemon is seen."""

    def names(url: str) -> set[str]:
        return {check["name"] for check in checks(home, url)[1]}

    assert {"home", "daemon", "key"} <= names(daemon.url)
    assert {"daemon", "clock"} == names("http://192.0.2.1:9")
    write(home / "config.yaml", "server: {host: 192.0.2.1, port: 9}\n")
    assert {"home", "daemon", "clock"} <= names("")


def test_clocks() -> None:
    """One that was never set, and two that disagree."""
    assert "fail" == check_clock(0.0, None).state
    assert "warn" == check_clock(2e9, 2e9 - 100).state
    assert "ok" == check_clock(2e9, 2e9 + 1).state
