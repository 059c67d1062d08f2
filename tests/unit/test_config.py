"""Settings come from four sources in order, and a wrong one is named."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config import (
    DeviceSettings,
    GgufSettings,
    LoggingSettings,
    MemorySettings,
    ModelSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    WorkerSettings,
    home_directory,
    load_settings,
)
from lmx.errors import ConfigError


def in_home(home: Path, text: str | None = None, **variables: str) -> dict[str, Any]:
    """Arguments for a home directory with that configuration file and environment."""
    if text is not None:
        (home / "config.yaml").write_text(text)
    return {"environment": {"LMX_HOME": str(home), **variables}}


def test_defaults(tmp_path: Path) -> None:
    """Nothing needs to be configured."""
    expected = Settings(
        home=tmp_path,
        server=ServerSettings(),
        models=ModelSettings(),
        gguf=GgufSettings(),
        worker=WorkerSettings(),
        memory=MemorySettings(),
        logging=LoggingSettings(),
        security=SecuritySettings(),
        device=DeviceSettings(),
    )
    assert expected == load_settings(**in_home(tmp_path))


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults < file < environment < command line, key by key."""
    given_in_file = "server: {port: 1, host: a, drain_s: 3}"
    settings = load_settings(
        **in_home(tmp_path, given_in_file, LMX_SERVER__PORT="2", LMX_SERVER__HOST="b"),
        overrides={"server": {"port": 4}},
    )
    server = settings.server
    assert (4, "b", 3.0, 75.0) == (server.port, server.host, server.drain_s, server.keep_alive_s)


def test_a_named_file_replaces_the_default_one(tmp_path: Path) -> None:
    """A file given by path is read instead of the one in the home directory."""
    other = tmp_path / "other.yaml"
    other.write_text("logging: {level: debug}")
    settings = load_settings(**in_home(tmp_path, "server: {port: 1}"), file=other)
    assert ("debug", 1234) == (settings.logging.level, settings.server.port)


@pytest.mark.parametrize("text", ["", "{}", "server:", "# nothing\n", "server: {}\nmodels:"])
def test_empty_files_and_sections_are_fine(tmp_path: Path, text: str) -> None:
    """A section may be empty, and so may the file."""
    assert load_settings(**in_home(tmp_path)) == load_settings(**in_home(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("server: {port: abc}", "port"),
        ("server: {port: 70000}", "port"),
        ("server: {drain_s: -1}", "drain_s"),
        ("server: {drain_s: .nan}", "drain_s"),
        ("models: {default_temperature: 3}", "default_temperature"),
        ("models: {load: {demo: 1}}", "load"),
        ("models: {folders: ~/x}", "folders"),
        ("models: {backend: cuda}", "backend"),
        ("models: {embedding_model: ''}", "embedding_model"),
        ("models: {embedding_model: null}", "embedding_model"),
        ("models: {rerank_model: [x]}", "rerank_model"),
        ("gguf: {gpu_layers: -2}", "gpu_layers"),
        ("gguf: {threads: 0}", "threads"),
        ("gguf: {kv_cache_gb: 0}", "kv_cache_gb"),
        ("gguf: {kv_cache_gb: .inf}", "kv_cache_gb"),
        ("memory: {budget_gb: 0}", "budget_gb"),
        ("memory: {budget_gb: .inf}", "budget_gb"),
        ("memory: {critical_percent: 101}", "critical_percent"),
        ("memory: {warning_percent: 90}", "warning_percent"),
        ("memory: {critical_percent: 85, warning_percent: 85}", "critical_percent"),
        ("routing: {aliases: {a: 1}}", "aliases"),
        ("downloads: {endpoint: hub}", "endpoint"),
        ("security: {profile: cloud, admin_key: x}", "inference_api_key"),
        ("skills: {mcp_servers: {a: {timeout_s: 3}}}", "command"),
        ("memory: {period_s: 0}", "period_s"),
        ("worker: {lease: sometimes}", "lease"),
        ("worker: {lease_slice_s: 0}", "lease_slice_s"),
        ("logging: {level: loud}", "level"),
        ("security: {admin_key: 5}", "admin_key"),
        ("security: {wrong_keys_per_minute: -1}", "wrong_keys_per_minute"),
        ("security: {allowed_hosts: x}", "allowed_hosts"),
        ("device: {name: 1}", "name"),
        ("server: [1]", "keys below"),
        ("server", "sections"),
        ("- server", "sections"),
        ("server: {", "config.yaml"),
        ("server: {host: 2024-13-45}", "config.yaml"),
        ("server: {host: \x07}", "config.yaml"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, names: str) -> None:
    """A mistake in the file is a `ConfigError` that holds the file and the key."""
    with pytest.raises(ConfigError, match=names) as caught:
        load_settings(**in_home(tmp_path, text))
    assert str(tmp_path / "config.yaml") in caught.value.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """Asking for a file that is not there is an error, unlike having none."""
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_settings(**in_home(tmp_path), file=tmp_path / "absent.yaml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a `ConfigError`."""
    (tmp_path / "config.yaml").write_bytes(b"server: {host: \xff}")
    with pytest.raises(ConfigError):
        load_settings(**in_home(tmp_path))


@pytest.mark.parametrize(
    ("variable", "text", "names"),
    [
        ("LMX_SERVER__PORT", "abc", "port"),
        ("LMX_SERVER__PORT", "", "port"),
        ("LMX_SERVER__HOST", "2024-13-45", None),
        ("LMX_MODELS__LOAD", "{a: 1}", "load"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, variable: str, text: str, names: str | None
) -> None:
    """A mistake in the environment is a `ConfigError` that holds the key."""
    if names is None:
        assert text == load_settings(**in_home(tmp_path, **{variable: text})).server.host
        return
    with pytest.raises(ConfigError, match=names):
        load_settings(**in_home(tmp_path, **{variable: text}))


def test_variables_may_hold_lists_and_numbers(tmp_path: Path) -> None:
    """A variable is read as YAML would read it; case of the name does not matter."""
    settings = load_settings(
        **in_home(
            tmp_path,
            LMX_MODELS__LOAD="[demo, org/x]",
            LMX_models__default_temperature="0.25",
            LMX_LOGGING__LEVEL="error",
            LMX_GGUF__MMAP="false",
            LMX_MEMORY__BUDGET_GB="12.5",
            LMX_MODELS__FOLDERS="[/srv/models, ~/more]",
        )
    )
    assert not settings.gguf.mmap
    assert 12.5 == settings.memory.budget_gb
    models = settings.models
    assert ("/srv/models", "~/more") == models.folders
    assert (("demo", "org/x"), 0.25) == (models.load, models.default_temperature)
    assert "error" == settings.logging.level


def test_vectors_and_scores_have_models_of_their_own(tmp_path: Path) -> None:
    """The embedded embedder answers where none is configured, and no reranking model does."""
    models = load_settings(**in_home(tmp_path)).models
    assert ("embedder", None) == (models.embedding_model, models.rerank_model)
    text = "models: {embedding_model: org/bge, rerank_model: ~/models/reranker}"
    models = load_settings(**in_home(tmp_path, text)).models
    assert ("org/bge", "~/models/reranker") == (models.embedding_model, models.rerank_model)


def test_keys_in_variables_are_taken_as_they_are(tmp_path: Path) -> None:
    """Whatever YAML would make of them: numbers, comments, words that mean nothing."""
    for key in ("123", "1e3", "null", "a #b", "[x", "'q'", "*x"):
        variables = {"LMX_SECURITY__ADMIN_KEY": key, "LMX_SECURITY__INFERENCE_API_KEY": key}
        security = load_settings(**in_home(tmp_path, **variables)).security
        assert ((key,), (key,)) == (security.admin_keys, security.inference_keys)


def test_all_inference_keys_count(tmp_path: Path) -> None:
    """The one that `opta key create` writes, and further ones; empty ones are none."""
    text = "security:\n  inference_api_key: a\n  inference_api_keys: [b, '', c]\n  admin_key: ''\n"
    security = load_settings(**in_home(tmp_path, text)).security
    assert (("a", "b", "c"), ()) == (security.inference_keys, security.admin_keys)


@pytest.mark.parametrize(
    "text",
    [
        "security: {admin_key:opta_sk_1}",
        "security:\n  admin_key: !opta_sk_1",
        "security:\n  admin_key: *opta_sk_1",
        "security:\n  admin_key: !opta'sk_1 x",
        "security:\n  open_admin: true\n  admin_key:opta_sk_1\n",
        "security:\n  admin_key: opta_sk_1: x\n",
        "security:\n  admin_key: 'opta_sk_1\n",
        "security:\n  admin_key: [opta_sk_1]\n",
        "security:\n  admin_key:opta_sk_1\n",
        "security:\n  admin_key: {opta_sk_1: 1}\n",
        "security: opta_sk_1",
        "security:\n  admin_key: &opta_sk_1 a\n  inference_api_key: &opta_sk_1 [1]",
    ],
)
def test_messages_hold_no_values(tmp_path: Path, text: str) -> None:
    """A mistake beside a key shows no key, because messages go to logs and to clients."""
    with pytest.raises(ConfigError) as caught:
        load_settings(**in_home(tmp_path, text))
    assert "sk_1" not in caught.value.message
    assert None is caught.value.__cause__


def test_foreign_variables_are_left_alone(tmp_path: Path) -> None:
    """Only ``LMX_SECTION__KEY`` is a setting."""
    environment = {"LMX_HOME": str(tmp_path), "SERVER__PORT": "1", "LMX_FOO": "1", "PATH": "x"}
    assert 1234 == load_settings(environment=environment).server.port


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=12))
def test_any_variable_is_a_value_or_a_config_error(text: str) -> None:
    """No text in the environment raises anything but a `ConfigError`."""
    environment = {"LMX_HOME": "/nonexistent", "LMX_SERVER__HOST": text}
    try:
        host = load_settings(environment=environment).server.host
    except ConfigError as error:
        host = error.message
    assert isinstance(host, str)


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State lives in ``LMX_HOME``, by default in a folder of the user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".opta-lmx" == home_directory({})
    assert tmp_path / ".opta-lmx" == home_directory({"LMX_HOME": ""})
    assert tmp_path / "x" == home_directory({"LMX_HOME": "~/x"})
    assert Path.cwd() / "x" == home_directory({"LMX_HOME": "x"})
