"""What a GGUF file's name tells: its quantisation, its place in a split, whether it is a model.

Pure. Publishers agree on ``NAME-Q4_K_M.gguf`` and ``NAME-Q4_K_M-00001-of-00003.gguf`` but for case
and punctuation.
"""

import re

from msgspec import Struct

SUFFIX = ".gguf"
# Without one in the request, the first of these that is there is taken. Q4_K_M is what publishers
# recommend and what Ollama takes; then the nearest in quality, then smaller and older ones.
PREFERENCE = (
    "q4_k_m",
    "q5_k_m",
    "q4_k_s",
    "q6_k",
    "q8_0",
    "q4_0",
    "q4_k_xl",
    "mxfp4",
    "q5_k_s",
    "iq4_xs",
    "iq4_nl",
    "q4_1",
    "q5_0",
    "q5_1",
    "q3_k_l",
    "q3_k_m",
    "iq3_m",
    "q3_k_s",
    "q2_k",
)
# Not quantised: last of all, after whatever has no place in the list.
UNQUANTISED = ("bf16", "f16", "fp16", "f32", "fp32")
# Files beside a model that are none: vision projectors and importance matrices.
_NO_MODEL = re.compile(r"(?:^|[^a-z0-9])(?:mmproj|imatrix)(?:[^a-z0-9]|$)", re.IGNORECASE)
_SPLIT = re.compile(r"^(.+)-(\d{5})-of-(\d{5})$")
_QUANTISATION = re.compile(
    r"(?:ud[-_])?(?:i?q[1-8](?:_(?:[01]|k|nl|xxs|xs|s|m|l|xl))*|tq[12]_0|mxfp4(?:_moe)?|nvfp4|"
    r"bf16|fp?16|fp?32)",
    re.IGNORECASE,
)
_QUANTISATION_IN_NAME = re.compile(
    rf"(?<![a-z0-9])({_QUANTISATION.pattern})(?![a-z0-9])", re.IGNORECASE
)


class Split(Struct, frozen=True):
    """A part's place: `index` counts from 1 to `count`."""

    stem: str
    index: int
    count: int

    def part(self, index: int) -> str:
        """The file name of another part."""
        return f"{self.stem}-{index:05}-of-{self.count:05}{SUFFIX}"


def is_gguf(name: str) -> bool:
    """Whether a file's name or path says that it is a GGUF file."""
    return name.lower().endswith(SUFFIX)


def parse_split(name: str) -> Split | None:
    """The place of a file in a split, or `None` if the name tells of none."""
    found = _SPLIT.match(_stem(name))
    return Split(found[1], int(found[2]), int(found[3])) if found else None


def model_name(name: str) -> str:
    """A file's name without its suffix and its place in a split."""
    split = parse_split(name)
    return split.stem if split else _stem(name)


def names_a_model(name: str) -> bool:
    """Whether a file may be where a model begins: a later part of a split or a projector is not."""
    tail = name.rsplit("/", 1)[-1]
    if not is_gguf(tail) or tail.startswith(".") or _NO_MODEL.search(tail):
        return False
    split = parse_split(tail)
    return split is None or split.index == 1


def parse_variant(text: str) -> str | None:
    """A quantisation as a person writes it, such as ``Q4_K_M``, in one spelling; `None` if none."""
    return _spelled(text) if _QUANTISATION.fullmatch(text) else None


def quantisation_of(name: str) -> str:
    """The quantisation that a file's name ends with, as `parse_variant` spells it; or empty."""
    found = _QUANTISATION_IN_NAME.findall(model_name(name))
    return _spelled(found[-1]) if found else ""


def choose_file(names: list[str], variant: str = "") -> str | None:
    """The file to load of those in one place.

    Args:
        names: File names or relative paths.
        variant: The quantisation wanted, as `parse_variant` spells it; empty for the best.

    Returns:
        One of them, the same whatever their order; `None` if none will do.
    """
    models = [name for name in names if names_a_model(name)]
    if variant:
        models = [n for n in models if quantisation_of(n) == variant] or [
            n for n in models if _plain(quantisation_of(n)) == variant
        ]
    return min(models, key=lambda name: (_rank(name), name), default=None)


def _rank(name: str) -> int:
    quantisation = _plain(quantisation_of(name))
    if quantisation in PREFERENCE:
        return PREFERENCE.index(quantisation)
    if quantisation in UNQUANTISED:
        return len(PREFERENCE) + 1 + UNQUANTISED.index(quantisation)
    return len(PREFERENCE)


def _spelled(quantisation: str) -> str:
    return quantisation.lower().replace("-", "_")


def _plain(quantisation: str) -> str:
    """Without Unsloth's mark for a mixture of its own."""
    return quantisation.removeprefix("ud_")


def _stem(name: str) -> str:
    tail = name.rsplit("/", 1)[-1]
    return tail[: -len(SUFFIX)] if is_gguf(tail) else tail
