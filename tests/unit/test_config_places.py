"""Values and warnings know where they stand: files by line, variables by name."""

from pathlib import Path
from typing import Any

import pytest

from lmx.config import Loaded, load
from lmx.errors import ConfigError


def read(home: Path, text: str | None = None, **variables: str) -> Loaded:
    """What a home directory with that file and those variables says."""
    if text is not None:
        (home / "config.yaml").write_text(text)
    return load(environment={"LMX_HOME": str(home), **variables})


def warned(loaded: Loaded, home: Path) -> list[str]:
    """The warnings, with the file's path shortened to its name."""
    return [str(warning).replace(f"{home}/", "") for warning in loaded.warnings]


def test_every_value_has_an_origin(tmp_path: Path) -> None:
    """A default, a line, a variable, or the command line."""
    (tmp_path / "config.yaml").write_text("server:\n  # mine\n  host: a\n  drain_s: 1\n")
    loaded = load(
        environment={"LMX_HOME": str(tmp_path), "LMX_SERVER__DRAIN_S": "2"},
        overrides={"models": {"load": ["x"]}},
    )
    names = ("server.port", "server.host", "server.drain_s", "models.load")
    origins = [str(loaded.origins[name]).replace(f"{tmp_path}/", "") for name in names]
    assert ["default", "config.yaml, line 3", "LMX_SERVER__DRAIN_S", "command line"] == origins
    assert (tmp_path / "config.yaml",) == loaded.files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server:\n  port: 80\n  prot: 1\n",
            "line 3: unknown setting server.prot; did you mean server.port?",
        ),
        (
            "sever:\n  port: 1\n  host: a\n",
            "line 2: unknown section sever; did you mean server?",
        ),
        (
            "server: {level: a}\n",
            "line 1: unknown setting server.level; did you mean logging.level",
        ),
        ("device: {zzz: 1}\n", "line 1: unknown setting device.zzz"),
        ("zzz: 1\n", "line 1: unknown section zzz"),
        ("rag:\n  a: 1\n  b: 2\n", "line 2: section rag has no effect: there is no store"),
        ("server: {workers: 4}\n", "line 1: server.workers has no effect here: each model has"),
        ("models: {kv_bits: 4}\n", "line 1: models.kv_bits has no effect: a KV cache holds values"),
        (
            "models: {speculative_model: x}\n",
            "line 1: models.speculative_model has no effect here: see models.speculation",
        ),
        ("server:\n  port: 1\n  port: 2\n", "line 3: server: key port comes twice"),
        ("server: {port: 1}\nserver: {host: a}\n", "line 2: section server comes twice"),
        (
            "models:\n  max_sequences: 3\n  max_concurrent_requests: 4\n",
            "line 3: models.max_concurrent_requests (here models.max_sequences) has no effect",
        ),
        (
            "models:\n  max_concurrent_requests: 4\n  use_batching: false\n",
            "line 2: models.max_concurrent_requests (here models.max_sequences) has no effect",
        ),
        (
            "skills: {mcp_servers: {a: {url: http://x, tiemout: 1}}}\n",
            "line 1: unknown setting skills.mcp_servers.a.tiemout",
        ),
        (
            "security: {admin_kee: x}\n",
            "line 1: unknown setting security.admin_kee; did you mean security.admin_key?",
        ),
        ("security: {opta_sk_1: x}\n", "line 1: unknown setting in security"),
    ],
)
def test_what_has_no_effect_is_told(tmp_path: Path, text: str, message: str) -> None:
    """Once each, with its line and the name that may have been meant; the start goes on."""
    (warning,) = warned(read(tmp_path, text), tmp_path)
    assert f"config.yaml, {message}" == warning[: len(f"config.yaml, {message}")]
    assert "sk_1" not in warning


@pytest.mark.parametrize(
    "text",
    [
        "server: {workers: 1, websocket_enabled: true}\nmodels: {warmup_on_load: true}",
        "models: {use_batching: true, kv_bits: null, default_model: null}",
        "server:\nmodels: {}\n",
        "x-shared: &a {port: 3}\nserver:\n  <<: *a\n  host: b\n",
    ],
)
def test_what_is_so_anyway_is_not_told(tmp_path: Path, text: str) -> None:
    """A name that asks for what happens here is as good as ours."""
    found = [line for line in warned(read(tmp_path, text), tmp_path) if "x-shared" not in line]
    assert [] == found


def test_merged_keys_count(tmp_path: Path) -> None:
    """YAML's own way to share keys; what stands in the section itself goes before it."""
    text = "x: &a {port: 3, host: a}\nserver:\n  <<: *a\n  host: b\n"
    server = read(tmp_path, text).settings.server
    assert (3, "b") == (server.port, server.host)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server:\n  host: a\n  port: abc\n",
            "line 3: server.port: expected a whole number from 0 to 65535",
        ),
        (
            "models:\n  auto_load:\n    - x\n    - 3\n",
            "line 2: models.auto_load (here models.load): expected a list, each a text",
        ),
        ("logging: {level: loud}\n", "line 1: logging.level: expected one of debug, error, info"),
        (
            "memory:\n  budget_gb: 1\n  critical_percent: 50\n  warning_percent: 60\n",
            "line 4: memory: `warning_percent` must be below `critical_percent`",
        ),
        ("server:\n  port: 1\n host: a\n", "line 3: "),
        (
            "security:\n  admin_key:\n    - a\n",
            "line 2: security.admin_key: expected a text, or null",
        ),
        ("server:\n  - a\n", "line 1: expected keys below 'server:', one a line"),
        (
            "models:\n  default_model: [a]\n",
            "line 2: models.default_model (here routing.default_model): expected a text that is",
        ),
        (
            'server:\n  host: "a\n',
            "line 3: found unexpected end of stream, in what begins on line 2",
        ),
        (
            "skills:\n  mcp_servers:\n    a: {url: x}\n    b: {comand: [x]}\n",
            "line 2: skills.mcp_servers.b: an MCP server needs either `command` or `url`; unknow",
        ),
        (
            "skills:\n  mcp_servers: {a: {command: [x], timeout_s: 0}}\n",
            "line 2: skills.mcp_servers.a.timeout_s: Expected `float` > 0.0",
        ),
    ],
)
def test_mistakes_have_lines(tmp_path: Path, text: str, message: str) -> None:
    """File, line, key and what was expected."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert f"{tmp_path}/config.yaml, {message}" in caught.value.message


def test_mistakes_elsewhere_have_places_too(tmp_path: Path) -> None:
    """The variable's name, or the command line."""
    with pytest.raises(ConfigError, match=r"^OPTA_LMX_PORT: server\.port: expected a whole number"):
        read(tmp_path, OPTA_LMX_PORT="x")
    overrides = {"logging": {"level": "loud"}}
    with pytest.raises(ConfigError, match=r"^command line: logging\.level: expected one of"):
        load(environment={"LMX_HOME": str(tmp_path)}, overrides=overrides)


def test_unknown_variables_are_told(tmp_path: Path) -> None:
    """Only those that look like settings."""
    variables = {"LMX_SERVER__PROT": "1", "OPTA_LMX_RAG__X": "1", "LMX_FOO": "1", "OTHER__X": "1"}
    moot, unknown = warned(read(tmp_path, **variables), tmp_path)
    assert moot.startswith("OPTA_LMX_RAG__X: section rag has no effect: ")
    assert "LMX_SERVER__PROT: unknown setting server.prot; did you mean server.port?" == unknown


def test_variables_of_the_help_pages(tmp_path: Path) -> None:
    """The short names lose to the long ones, and the other prefix to ours."""
    variables = {
        "OPTA_LMX_HOST": "a",
        "OPTA_LMX_PORT": "1",
        "OPTA_LMX_ADMIN_KEY": "12",
        "OPTA_LMX_SERVER__PORT": "2",
        "OPTA_LMX_SERVER__DRAIN_S": "3",
        "LMX_SERVER__DRAIN_S": "4",
        "LMX_DEVICE__NAME": "2024-01-01",
        "LMX_LOGGING__FILE": "/srv/x.log",
    }
    settings = read(tmp_path, **variables).settings
    server = settings.server
    assert ("a", 2, 4.0) == (server.host, server.port, server.drain_s)
    assert ("12",) == settings.security.admin_keys
    assert ("2024-01-01", "/srv/x.log") == (settings.device.name, settings.logging.file)


def test_a_key_is_inserted_above_deeper_ones(tmp_path: Path) -> None:
    """`opta key create` inserts two blanks, whatever stands below."""
    text = "security:\n  inference_api_key: new\n    admin_key: adm\n    open_admin: true\n"
    loaded = read(tmp_path, text)
    security = loaded.settings.security
    assert (("new",), ("adm",), True) == (
        security.inference_keys,
        security.admin_keys,
        security.open_admin,
    )
    assert 2 == loaded.origins["security.inference_api_key"].line


@pytest.mark.parametrize("below", ["     # a note", "     ure"])
def test_other_lines_below_a_key_stay(tmp_path: Path, below: str) -> None:
    """A comment, or the rest of a value, however deep, is no key that stands deeper."""
    text = f"security:\n  inference_api_key: sec\n{below}\n  admin_key: adm\n"
    security = read(tmp_path, text).settings.security
    assert ("adm",) == security.admin_keys
    assert security.inference_keys[0].startswith("sec")


TOML = """\
[server]
host = "127.0.0.1"
port = 4321

[models]
default = "org/x"
paths = ["/srv/models"]

[inference]
max_tokens = 100
temperature = 0.2
context_length = 2048

[memory]
max_memory_pct = 70
oom_threshold_pct = 80
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's directory with the file of the help pages."""
    file = tmp_path / "user/.config/opta/lmx/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(TOML)
    return tmp_path / "user"


def test_the_file_of_the_help_pages(tmp_path: Path, user: Path) -> None:
    """Its names mean ours, and its lines are known."""
    loaded = read(tmp_path, HOME=str(user))
    settings, place = loaded.settings, f"{user}/.config/opta/lmx/config.toml, line"
    assert ("127.0.0.1", 4321) == (settings.server.host, settings.server.port)
    assert ("org/x", ("/srv/models",)) == (settings.routing.default_model, settings.models.folders)
    models = settings.models
    assert (100, 0.2, 2048) == (
        models.default_max_tokens,
        models.default_temperature,
        models.context_tokens,
    )
    assert (70, 80) == (settings.memory.warning_percent, settings.memory.critical_percent)
    assert f"{place} 12" == str(loaded.origins["models.context_tokens"])
    assert () == loaded.warnings


def test_ours_wins_and_says_so(tmp_path: Path, user: Path) -> None:
    """Key by key, where both say something."""
    loaded = read(tmp_path, "server: {port: 1}", HOME=str(user))
    assert ("127.0.0.1", 1) == (loaded.settings.server.host, loaded.settings.server.port)
    (warning,) = warned(loaded, tmp_path)
    assert warning.endswith("line 3: server.port has no effect: config.yaml, line 1 says it, too")
    named = load(file=tmp_path / "config.yaml", environment={"HOME": str(user)})
    assert ("default", ()) == (named.origins["server.host"].kind, named.warnings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 'x'\n", "line 2: server.port: expected a whole number"),
        ("[server]\nport = \n", "at line 2"),
        ("server = 3\n", "line 1: expected keys below 'server:'"),
    ],
)
def test_mistakes_in_toml(tmp_path: Path, text: str, message: str) -> None:
    """They are named like those in YAML."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file=file, environment={"LMX_HOME": str(tmp_path)})
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("old", "value", "section", "key", "expected"),
    [
        ("server.timeout_sec", 5, "server", "body_timeout_s", 5.0),
        ("server.sse_heartbeat_interval_sec", 9, "server", "events_heartbeat_s", 9.0),
        ("server.admin_key", "k", "security", "admin_key", "k"),
        ("models.default_model", "org/x", "routing", "default_model", "org/x"),
        ("models.default_model", "", "routing", "default_model", None),
        ("models.models_directory", "/srv", "models", "folders", ("/srv",)),
        ("models.auto_load", ["a", "b"], "models", "load", ("a", "b")),
        ("models.load", "a", "models", "load", ("a",)),
        ("models.use_batching", False, "models", "max_sequences", 1),
        ("models.max_concurrent_requests", 4, "models", "max_sequences", 4),
        ("models.gguf_context_length", 4096, "gguf", "context_tokens", 4096),
        ("models.gguf_gpu_layers", 3, "gguf", "gpu_layers", 3),
        ("models.kv_bits", 8, "models", "kv_bits", {"*": 8}),
        ("models.keep_alive_sec", 0, "models", "keep_alive_s", None),
        ("models.keep_alive_sec", 60, "models", "keep_alive_s", 60.0),
        ("inference.context_length", 0, "models", "context_tokens", None),
        ("memory.max_memory_percent", 80, "memory", "critical_percent", 80.0),
        ("memory.max_memory_percent", 80, "memory", "warning_percent", 75.0),
        ("memory.max_memory_percent", 95, "memory", "warning_percent", 85.0),
        ("logging.level", "WARN", "logging", "level", "warning"),
        ("logging.file", "/x", "logging", "file", "/x"),
        ("security.downloads_enabled", True, "downloads", "enabled", True),
        ("security.profile", "lan", "security", "profile", "lan"),
        ("routing.aliases", {"a": ["x", "y"]}, "routing", "aliases", {"a": ("x", "y")}),
        ("discovery.mdns_enabled", False, "discovery", "mdns_enabled", False),
        ("presets.directory", "/p", "presets", "directory", "/p"),
        ("skills.directory", "/s", "skills", "folders", ("/s",)),
    ],
)
def test_names_of_other_versions(
    old: str, value: Any, section: str, key: str, expected: Any
) -> None:
    """Each means what it meant, in our form, whatever source it comes from."""
    given, _, name = old.partition(".")
    loaded = load(environment={"LMX_HOME": "/nowhere"}, overrides={given: {name: value}})
    assert expected == getattr(getattr(loaded.settings, section), key)
    assert () == loaded.warnings
