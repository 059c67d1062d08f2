"""Which settings exist, read from the types: names, defaults, and what a value has to be.

Types are the only place where a setting is declared; messages, the example file and the tables of
the documentation follow from them.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct, inspect

from lmx.config.sections import Settings

# Values that nobody is shown.
SECRETS = frozenset(
    {"security.admin_key", "security.inference_api_key", "security.inference_api_keys"}
)


class Setting(Struct, frozen=True):
    """One setting.

    Attributes:
        section: Name of its section.
        key: Its own name.
        info: What a value has to be.
        default: What holds where nobody says anything.
        annotation: The type that values are converted to.
    """

    section: str
    key: str
    info: inspect.Type
    default: Any
    annotation: Any

    @property
    def name(self) -> str:
        """Section and key with a dot between."""
        return f"{self.section}.{self.key}"

    @property
    def is_secret(self) -> bool:
        """Whether its value is shown to nobody."""
        return self.name in SECRETS

    @property
    def is_text(self) -> bool:
        """Whether a value is one text, or nothing."""
        info = self.info
        kinds = info.types if isinstance(info, inspect.UnionType) else (info,)
        allowed = (inspect.StrType, inspect.NoneType, inspect.LiteralType)
        return all(isinstance(kind, allowed) for kind in kinds)


def _read_settings() -> Mapping[str, Setting]:
    found: dict[str, Setting] = {}
    for section in msgspec.structs.fields(Settings):
        if section.name == "home":
            continue
        info = inspect.type_info(section.type)
        kinds = {field.name: field.type for field in _fields(info)}
        for field in msgspec.structs.fields(section.type):
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            setting = Setting(section.name, field.name, kinds[field.name], default, field.type)
            found[setting.name] = setting
    return MappingProxyType(found)


def _fields(info: inspect.Type) -> Sequence[inspect.Field]:
    return info.fields if isinstance(info, inspect.StructType) else ()


SECTIONS = tuple(name for name in Settings.__struct_fields__ if name != "home")
SETTINGS = _read_settings()


def nearest(name: str, among: Sequence[str]) -> str | None:
    """The name that somebody may have meant, or `None`."""
    found = get_close_matches(name, among, n=1)
    return found[0] if found else None


def describe(info: inspect.Type) -> str:
    """What a value of a type is, for a person, without an article's worth of types."""
    if isinstance(info, inspect.UnionType):
        parts = [describe(kind) for kind in info.types if not isinstance(kind, inspect.NoneType)]
        return " or ".join(parts) + (", or null" if len(parts) < len(info.types) else "")
    if isinstance(info, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in info.values)
    if isinstance(info, inspect.VarTupleType):
        return f"a list, each {describe(info.item_type)}"
    if isinstance(info, inspect.DictType):
        return f"a table of names, each with {describe(info.value_type)}"
    words = _SIMPLE.get(type(info))
    return "a table" if words is None else words(info)


def _describe_number(noun: str) -> Callable[[Any], str]:
    def words(info: Any) -> str:
        if info.ge is not None and info.le is not None:
            return f"{noun} from {info.ge:g} to {info.le:.10g}"
        bounds = []
        if info.gt is not None:
            bounds.append(f"above {info.gt:g}")
        if info.ge is not None:
            bounds.append(f"of at least {info.ge:g}")
        if info.le is not None:
            bounds.append(f"of at most {info.le:.10g}")
        return " ".join([noun, " and ".join(bounds)]) if bounds else noun

    return words


def _describe_text(info: Any) -> str:
    if info.pattern:
        return f"a text like {info.pattern}"
    return "a text that is not empty" if info.min_length else "a text"


_SIMPLE: Mapping[type[inspect.Type], Callable[[Any], str]] = MappingProxyType(
    {
        inspect.BoolType: lambda _: "true or false",
        inspect.IntType: _describe_number("a whole number"),
        inspect.FloatType: _describe_number("a number"),
        inspect.StrType: _describe_text,
    }
)
