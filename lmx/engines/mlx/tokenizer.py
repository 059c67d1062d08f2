"""A model directory's vocabulary and chat template. Needs only `tokenizers` and Jinja.

Knows nothing about weights or devices. The intake thread encodes and the engine thread decodes,
each with a clone of its own. Directories without ``tokenizer.json`` are not supported: their slow
tokenizers would need Python code from the model's author.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lmx.catalog.chat_template import find_template
from lmx.engines.base import Detokenizer
from lmx.engines.mlx.detokenizer import DetokenizerFactory
from lmx.engines.template import ChatTemplate, fallback_template
from lmx.errors import CorruptModel, UnsupportedModel
from lmx.protocol.messages import ChatPrompt

# Names of special tokens that templates may use, as transformers passes them.
SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class MlxTokenizer:
    """Renders and encodes on the intake thread; makes detokenizers for the engine thread.

    Args:
        encoder: Used by the intake thread only.
        decoder: A clone for the engine thread.
        template: The chat template.
        end_token: The end token the tokenizer names, if it does.
        vocabulary_json: The text of ``tokenizer.json``, for whoever reads vocabularies itself.
        template_source: The text of the model's own template; empty if it has none.
    """

    def __init__(
        self,
        encoder: Tokenizer,
        decoder: Tokenizer,
        template: ChatTemplate,
        *,
        end_token: str | None,
        vocabulary_json: str,
        template_source: str,
    ) -> None:
        self.template_source = template_source
        self.vocabulary_json = vocabulary_json
        self.end_id: int | None = None if end_token is None else encoder.token_to_id(end_token)
        self._encoder = encoder
        self._detokenizers = DetokenizerFactory(decoder)
        self._template = template
        added = encoder.get_added_tokens_decoder().values()
        self._special_tokens = frozenset(token.content for token in added if token.special)
        # What the tokenizer's post-processor puts before a text, such as the beginning token.
        self._beginning = _leading_ids(encoder)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token's id."""
        return self._encoder.get_vocab(with_added_tokens=True)

    @property
    def special_tokens(self) -> frozenset[str]:
        """Texts of the special tokens."""
        return self._special_tokens

    def render(self, prompt: ChatPrompt) -> str:
        """Apply the chat template.

        Raises:
            InvalidRequest: The template refuses this conversation.
        """
        return self._template.render(prompt)

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        """Token ids; special tokens only where the text spells them.

        Args:
            text: A rendered prompt or plain text.
            add_beginning: Put first what the tokenizer's post-processor puts there, unless the
                text begins with it.
        """
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        if add_beginning and ids[: len(self._beginning)] != self._beginning:
            return self._beginning + ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""
        return self._detokenizers.token_bytes(token_id)

    def new_detokenizer(self, visible: frozenset[str] = frozenset()) -> Detokenizer:
        """A fresh detokenizer for one sequence, which keeps the special tokens in `visible`."""
        return self._detokenizers.new(visible)


def load_tokenizer(
    directory: Path, tokenizer_config: dict[str, Any]
) -> tuple[MlxTokenizer, list[str]]:
    """Read ``tokenizer.json`` and the template.

    Args:
        directory: The model's.
        tokenizer_config: Its ``tokenizer_config.json``, empty if there is none.

    Returns:
        The tokenizer and remarks for the log.

    Raises:
        CorruptModel: A file cannot be read.
        UnsupportedModel: There is no ``tokenizer.json``.
    """
    text = read_tokenizer(directory)
    encoder, decoder = Tokenizer.from_str(text), Tokenizer.from_str(text)
    encoder.no_truncation()
    encoder.no_padding()
    variables = _variables(tokenizer_config)
    own_source = source = find_template(directory, tokenizer_config)
    notes = []
    if source is None:
        is_chatml = encoder.token_to_id("<|im_start|>") is not None
        source, note = fallback_template(is_chatml=is_chatml)
        notes.append(note)
    template = ChatTemplate(source, variables)
    end_token = variables.get("eos_token")
    tokenizer = MlxTokenizer(
        encoder,
        decoder,
        template,
        end_token=end_token,
        vocabulary_json=text,
        template_source=own_source or "",
    )
    return tokenizer, notes


def _leading_ids(encoder: Tokenizer) -> list[int]:
    """What comes before a text's own ids; a token added at its end does not count."""
    probe = "a"
    plain: list[int] = encoder.encode(probe, add_special_tokens=False).ids
    whole: list[int] = encoder.encode(probe, add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def read_tokenizer(directory: Path) -> str:
    """The text of a directory's ``tokenizer.json``, checked as far as the library does not.

    Raises:
        CorruptModel: It cannot be read.
        UnsupportedModel: There is none.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModel(f"{directory.name} has no tokenizer.json")
    return _read(path)


def token_text(entry: Any) -> str | None:
    """A special token's text, which files spell as a string or as an object with ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _read(path: Path) -> str:
    """The file's text, checked first: `tokenizers` raises a bare `Exception` for a broken one."""
    try:
        text = path.read_text(encoding="utf-8")
        has_model = isinstance(json.loads(text)["model"], dict)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CorruptModel(f"tokenizer.json cannot be read: {error}") from error
    if not has_model:
        raise CorruptModel("tokenizer.json describes no vocabulary")
    return text


def _variables(tokenizer_config: dict[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = {"add_bos_token": bool(tokenizer_config.get("add_bos_token"))}
    for name in SPECIAL_TOKENS:
        text = token_text(tokenizer_config.get(name))
        if text is not None:
            variables[name] = text
    return variables
