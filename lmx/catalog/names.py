"""Which loaded model a client means. Pure; one resolver for every entry point.

In order: the exact id or alias, the id whatever its case and punctuation, what follows the last
slash, and that without its quantisation suffix. ``auto``, ``current`` and an empty name mean the
first model. A step with two candidates resolves nothing: guessing would serve the wrong model.
"""

import re
from collections.abc import Callable, Mapping, Sequence

ANY_MODEL = frozenset({"", "auto", "current"})
_QUANTISATION = re.compile(
    r"[-_.@:](?:[2-8]bit|(?:ud[-_])?q[2-8](?:_[01k](?:_[sml]|_xl)?)?|iq[1-4]_\w+|bf16|fp16|f16|"
    r"fp32|f32|fp8|mxfp4|nvfp4|awq|gptq|dwq|mlx|gguf)$"
)


def resolve_name(name: str, models: Mapping[str, Sequence[str]]) -> str | None:
    """Find the model a name means.

    Args:
        name: As the client spelled it.
        models: Canonical id to aliases, in order of preference.

    Returns:
        The canonical id, or `None`.
    """
    if name in ANY_MODEL:
        return next(iter(models), None)
    for model_id, aliases in models.items():
        if name == model_id or name in aliases:
            return model_id
    for simplify in (_plain, _tail, _short):
        if match := _only_match(name, models, simplify):
            return match
    return None


def _only_match(
    name: str, models: Mapping[str, Sequence[str]], simplify: Callable[[str], str]
) -> str | None:
    wanted = simplify(name)
    if not wanted:
        return None
    matches = [model_id for model_id in models if simplify(model_id) == wanted]
    return matches[0] if len(matches) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _tail(name: str) -> str:
    return _plain(name.rsplit("/", 1)[-1])


def _short(name: str) -> str:
    """The tail without quantisation suffixes: ``org/Qwen3-30B-A3B-4bit`` -> ``qwen330ba3b``."""
    tail = name.rsplit("/", 1)[-1].lower()
    while (stripped := _QUANTISATION.sub("", tail)) != tail:
        tail = stripped
    return _plain(tail)
