"""What is written about settings comes from the types, and is never stale."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.config import Settings, carry_over, load
from lmx.config.former import FORMER, MOOT
from lmx.config.known import SECTIONS, SETTINGS, describe
from lmx.config.manual import example_text, section_text, setting_text
from lmx.config.reloading import NEEDS_RESTART, differing, value_of
from lmx.config.show import shown_values
from scripts.generate_config import fill_tables, stale

ROOT = Path(__file__).parent.parent.parent


def test_nothing_is_stale() -> None:
    """The example and the tables say what the types say."""
    assert [] == stale(ROOT)


def test_everything_is_described() -> None:
    """Every section and setting has a sentence, and every type words for it."""
    assert [] == [name for name in SECTIONS if not section_text(name)]
    assert [] == [name for name, setting in SETTINGS.items() if not setting_text(setting)]
    assert [] == [name for name, setting in SETTINGS.items() if not describe(setting.info)]


def test_names_are_names() -> None:
    """What the tables of names and restarts speak of exists, and no name has two meanings."""
    assert set() == NEEDS_RESTART - set(SETTINGS)
    assert set() == {former.name for former in FORMER.values()} - set(SETTINGS)
    assert set() == (set(FORMER) | set(MOOT)) & set(SETTINGS)
    assert set() == set(FORMER) & set(MOOT)


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    """As it is, and with every line of it in force."""
    environment = {"LMX_HOME": str(tmp_path)}
    for text in (example_text(), re.sub(r"(?m)^  # ([a-z_]+: .*)$", r"  \1", example_text())):
        (tmp_path / "config.yaml").write_text(text)
        loaded = load(environment=environment)
        assert (Settings(home=tmp_path), ()) == (loaded.settings, loaded.warnings)
    lines = {origin.line for origin in loaded.origins.values()}
    assert len(SETTINGS) == len(lines)  # each had a line of its own


def test_a_missing_table_is_named() -> None:
    """A section that the documentation forgot."""
    with pytest.raises(ValueError, match="server"):
        fill_tables("nothing")


WORDS = st.text("abcxyz-", min_size=1, max_size=6)
BY_TYPE = {
    "BoolType": lambda _: st.booleans(),
    "StrType": lambda _: WORDS,
    "IntType": lambda info: st.integers(int(info.ge or 0), int(info.le or 10**6)),
    "FloatType": lambda info: st.floats(
        max(info.gt or 0, info.ge or 0), info.le or 1e6, exclude_min=info.gt is not None
    ),
    "LiteralType": lambda info: st.sampled_from(info.values),
    "NoneType": lambda _: st.none(),
}


def values_of(info: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    """Values that fit a type."""
    if isinstance(info, msgspec.inspect.UnionType):
        return st.one_of([values_of(kind) for kind in info.types])
    if isinstance(info, msgspec.inspect.VarTupleType):
        return st.lists(values_of(info.item_type), max_size=3)
    if isinstance(info, msgspec.inspect.DictType):
        return st.dictionaries(WORDS, values_of(info.value_type), max_size=3)
    return BY_TYPE[type(info).__name__](info)


# Patterns, records, and settings that constrain each other have tests of their own.
FREE = {
    name: setting
    for name, setting in SETTINGS.items()
    if name not in {"skills.mcp_servers", "security.profile", "downloads.endpoint"}
    and not name.endswith(("_percent", "token_env"))
}
TREES = st.fixed_dictionaries({}, optional={n: values_of(s.info) for n, s in FREE.items()})


@settings(max_examples=30)
@given(TREES)
def test_any_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    """What fits is taken as it is from YAML, key by key, and nothing is odd about it."""
    sections: dict[str, dict[str, object]] = {}
    for name, value in tree.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    file = tmp_path_factory.getbasetemp() / "tree.yaml"
    file.write_text(yaml.safe_dump(sections))
    loaded = load(file=file, environment={"LMX_HOME": "/nowhere"})
    back = {name: value_of(loaded.settings, name) for name in tree}
    assert tree == msgspec.json.decode(msgspec.json.encode(back))
    assert () == loaded.warnings
    kinds = {name: origin.kind for name, origin in loaded.origins.items()}
    assert {name: "file" if name in tree else "default" for name in SETTINGS} == kinds


@settings(max_examples=30)
@given(TREES)
def test_a_reload_takes_all_but_what_needs_a_restart(tree: dict[str, object]) -> None:
    """What differs from before is either in force or waits, never both and never neither."""
    before = Settings(home=Path("/nowhere"))
    overrides: dict[str, dict[str, object]] = {}
    for name, value in tree.items():
        section, _, key = name.partition(".")
        overrides.setdefault(section, {})[key] = value
    fresh = load(environment={"LMX_HOME": "/nowhere"}, overrides=overrides).settings
    applied = carry_over(before, fresh)
    updated, waiting = differing(before, applied), differing(applied, fresh)
    assert set(differing(before, fresh)) == {*updated, *waiting}
    assert set(waiting) <= NEEDS_RESTART
    assert set() == NEEDS_RESTART & set(updated)


def test_keys_are_not_shown() -> None:
    """Only that they are set; and nothing of a server of tools that may be one."""
    secret = "sk-very"  # noqa: S105  # not one
    loaded = load(
        environment={"LMX_HOME": "/nowhere"},
        overrides={
            "security": {"admin_key": secret, "inference_api_keys": [secret]},
            "skills": {
                "mcp_servers": {
                    "a": {
                        "url": f"http://u:{secret}@h/{secret}?k={secret}",
                        "headers": {"x": secret},
                    },
                    "b": {"command": ["run", "--key", secret]},
                }
            },
        },
    )
    shown = shown_values(loaded.settings)
    assert secret not in str(shown)
    assert ("set", None, "set") == (
        shown["security.admin_key"],
        shown["security.inference_api_key"],
        shown["security.inference_api_keys"],
    )
    assert "http://h" == shown["skills.mcp_servers"]["a"]["url"]
