"""``lmx config`` as a person runs it."""

import json
from pathlib import Path

from tests.cli_fakes import Outcome, run_lmx

REPOSITORY = Path(__file__).parent.parent.parent
SECRET = "opta_sk_secret"  # noqa: S105  # what must not be seen
FILE = f"security:\n  admin_key: {SECRET}\nserver:\n  port: 8080\n  prot: 1\n"


def lmx(home: Path, *arguments: str, **variables: str) -> Outcome:
    """Run a command."""
    own = {"HOME": str(home / "user"), **variables}
    return run_lmx("config", *arguments, home=home, environment=own)


def test_show_with_origins(tmp_path: Path) -> None:
    """Each value, where it came from, and no key; what is odd goes to standard error."""
    file = tmp_path / "config.yaml"
    file.write_text(FILE)
    shown = lmx(tmp_path, "show", "--origin", LMX_SERVER__DRAIN_S="3")
    assert 0 == shown.status, shown.err
    assert SECRET not in shown.out + shown.err
    lines = shown.out.splitlines()
    assert f"  port: 8080  # {file}, line 4" in lines
    assert f"  admin_key: set  # {file}, line 2" in lines
    assert "  drain_s: 3  # LMX_SERVER__DRAIN_S" in lines
    assert "  max_sequences: 32  # default" in lines
    hint = "unknown setting server.prot; did you mean server.port?"
    assert f"lmx: {file}, line 5: {hint}\n" == shown.err
    document = json.loads(lmx(tmp_path, "show", "--origin", "--json").out)
    assert {"value": 8080, "origin": f"{file}, line 4"} == document["server.port"]
    assert "set" == json.loads(lmx(tmp_path, "show", "--json").out)["security.admin_key"]


def test_check(tmp_path: Path) -> None:
    """Warnings fail only where that is asked for, mistakes always."""
    file = tmp_path / "other.yaml"
    file.write_text(FILE)
    relaxed, strict = (
        lmx(tmp_path, "check", str(file)),
        lmx(tmp_path, "check", "--strict", str(file)),
    )
    assert (0, 78) == (relaxed.status, strict.status)
    assert "did you mean server.port?" in relaxed.out
    file.write_text("server:\n  port: abc\n")
    broken = lmx(tmp_path, "check", "--json", str(file))
    assert 78 == broken.status
    expected = f"{file}, line 2: server.port: expected a whole number from 0 to 65535"
    document = json.loads(broken.out)
    assert (False, expected) == (document["ok"], document["error"])
    assert 0 == lmx(tmp_path, "check", "--strict").status


def test_paths_and_the_example(tmp_path: Path) -> None:
    """The example is a file that can be used, at the place that is named."""
    file = tmp_path / "config.yaml"
    assert f"{file}\n" == lmx(tmp_path, "path").out
    file.write_text(lmx(tmp_path, "example").out)
    assert (REPOSITORY / "config.example.yaml").read_text() == file.read_text()
    assert f"{file}: fine\n" == lmx(tmp_path, "check", "--strict").out
