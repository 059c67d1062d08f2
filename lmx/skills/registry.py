"""Which skills there are, and which one a name means. Values only; it does not change.

Whoever changes the list makes a new registry, so that a reader never sees half of a change.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from lmx.errors import SkillNotFound
from lmx.skills.arguments import ArgumentRules
from lmx.skills.manifest import Manifest

SHOWN_NAMES = 5
SHOWN_CHARACTERS = 128


class Registry:
    """Skills by name.

    Args:
        manifests: Each reference once.
        rules: Of those whose schemas are compiled already, by reference.
    """

    def __init__(
        self, manifests: Iterable[Manifest] = (), rules: Mapping[str, ArgumentRules] | None = None
    ) -> None:
        self._all = sorted(
            manifests, key=lambda one: (one.qualified_name, version_key(one.version))
        )
        self._by_reference = {one.reference: one for one in self._all}
        self._latest = {one.qualified_name: one for one in self._all}  # the last of each is it
        self._rules = dict(rules or {})

    def list(self, *, latest_only: bool = False) -> Sequence[Manifest]:
        """Every skill in order of names and versions; of each only the latest version if asked."""
        return list(self._latest.values()) if latest_only else list(self._all)

    def find(self, name: str) -> Manifest:
        """The skill of a name, a qualified name or a reference; without version the latest.

        Raises:
            SkillNotFound: There is none, or the bare name is that of several.
        """
        bare, _, version = name.partition("@")
        if "/" in bare:
            qualified = [bare]
        else:
            qualified = [known for known in self._latest if known.rpartition("/")[2] == bare]
        if len(qualified) > 1:
            raise SkillNotFound(
                f"several skills are called '{_shown(bare)}': {_some(qualified)}", param="name"
            )
        for candidate in qualified:
            reference = f"{candidate}@{version}"
            found = self._by_reference.get(reference) if version else self._latest.get(candidate)
            if found is not None:
                return found
        raise SkillNotFound(self._missing(bare, version, qualified), param="name")

    def rules(self, manifest: Manifest) -> ArgumentRules:
        """What its arguments must be like; compiled when first asked for.

        Raises:
            ConfigError: Its schema cannot be used.
        """
        if manifest is not self._by_reference.get(manifest.reference):
            return ArgumentRules(manifest.input_schema)
        if manifest.reference not in self._rules:
            self._rules[manifest.reference] = ArgumentRules(manifest.input_schema)
        return self._rules[manifest.reference]

    def _missing(self, bare: str, version: str, qualified: Sequence[str]) -> str:
        """What to say of a name that is no skill's."""
        wanted = f"{_shown(bare)}@{_shown(version)}" if version else _shown(bare)
        versions = [one.version for one in self._all if one.qualified_name in qualified]
        if versions:
            return f"there is no skill '{wanted}'; its versions are {_some(versions)}"
        names = [*self._latest, *(known.rpartition("/")[2] for known in self._latest)]
        near = difflib.get_close_matches(bare[:64], names, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"there is no skill '{wanted}'{hint}"


def version_key(version: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Versions in order: numbers between dots as numbers, and words before them.

    So ``1.10`` comes after ``1.9``, and ``1.0.0-beta`` before ``1.0.0``.
    """
    parts = version.split(".")
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts
    ], version


def _shown(name: str) -> str:
    return name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
