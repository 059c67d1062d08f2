"""What a generative reranker is asked: query and document in the form that it was trained on.

Knows text and token ids, no weights. Source of the fixed form: the card of Qwen3-Reranker. What
users send is never read as special tokens, so no document can close its turn and answer itself.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lmx.engines.mlx.tokenizer import SPECIAL_TOKENS, token_text
from lmx.engines.template import ChatTemplate
from lmx.engines.vectors import TokenRow
from lmx.errors import InvalidRequest, UnsupportedModel
from lmx.protocol.messages import ChatPrompt

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QUERY, DOCUMENT = "{query}", "{document}"
FIXED_FORM = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {DOCUMENT}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
# What a template for reranking is called among a tokenizer's named ones.
TEMPLATE_NAMES = frozenset({"rerank", "reranking", "reranker"})
PLACEHOLDERS = (QUERY, DOCUMENT)


class _Opening(NamedTuple):
    """What stands before a document: ids up to the last special token, and the text after it."""

    head: list[int]
    text: str
    text_ids: list[int]


class PromptTokenizer:
    """Rows of a generative reranker: segment 0 is shared by all documents of a query.

    Args:
        tokenizer: Used by nobody else.
        form: The prompt, with `{query}` and `{document}` in it once each and in this order.
        max_tokens: The longest row the model takes.
        vocabulary_size: Token ids are below this.

    Raises:
        UnsupportedModel: The form is of another kind.
    """

    def __init__(
        self, tokenizer: Tokenizer, form: str, *, max_tokens: int, vocabulary_size: int
    ) -> None:
        if [form.count(name) for name in PLACEHOLDERS] != [1, 1]:
            raise UnsupportedModel("the template for reranking does not hold query and document")
        if form.index(QUERY) > form.index(DOCUMENT):
            raise UnsupportedModel("the template for reranking has the document first")
        self.max_tokens = max_tokens
        self.vocabulary_size = vocabulary_size
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        before, after = form.split(DOCUMENT)
        self._before = _split_special(tokenizer, before)
        self._tail = self._ids_of(_split_special(tokenizer, after))

    def encode(self, texts: Sequence[str], *, limit: int | None = None) -> list[TokenRow]:
        """Rows of the texts alone, which no query goes with."""
        return [TokenRow(ids[:limit]) for ids in self._encode(texts)]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int | None = None
    ) -> list[TokenRow]:
        """One row per pair. The document is cut first, then the query's end of the prompt."""
        openings = {query: self._open(query) for query in {query for query, _ in pairs}}
        texts = [openings[query].text + document for query, document in pairs]
        return [
            self._row(openings[query], body, limit)
            for (query, _), body in zip(pairs, self._encode(texts), strict=True)
        ]

    def _open(self, query: str) -> _Opening:
        *pieces, last = [
            piece.replace(QUERY, query) if isinstance(piece, str) else piece
            for piece in self._before
        ]
        if isinstance(last, int):
            pieces, last = [*pieces, last], ""
        return _Opening(self._ids_of(pieces), last, self._encode([last.rstrip()])[0])

    def _row(self, opening: _Opening, body: list[int], limit: int | None) -> TokenRow:
        fixed = len(opening.head) + len(self._tail)
        body = body if limit is None else body[: max(0, limit - fixed)]
        shared = len(opening.head) + _common(opening.text_ids, body)
        ids = [*opening.head, *body, *self._tail]
        return TokenRow(ids, [0] * shared + [1] * (len(ids) - shared))

    def _ids_of(self, pieces: Sequence[int | str]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else self._encode([piece])[0]
        return ids

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]


def find_form(directory: Path, tokenizer_config: dict[str, Any]) -> str:
    """The prompt of a model's template for reranking if it has one, otherwise the fixed form.

    A template gets `query` and `document` as variables and as messages of these roles.

    Raises:
        CorruptModel: The template is none.
        UnsupportedModel: The template cannot be rendered.
    """
    source = _named_template(directory, tokenizer_config)
    if source is None:
        return FIXED_FORM
    variables = {name: token_text(tokenizer_config.get(name)) or "" for name in SPECIAL_TOKENS}
    roles = {"system": SYSTEM, "instruct": INSTRUCTION, "query": QUERY, "document": DOCUMENT}
    messages = [{"role": role, "content": roles[role]} for role in ("system", "query", "document")]
    template = ChatTemplate(source, variables)
    try:
        return template.render(
            ChatPrompt(messages, template_kwargs={**roles, "instruction": INSTRUCTION})
        )
    except InvalidRequest as error:
        raise UnsupportedModel(f"the template for reranking fails: {error.message}") from error


def _named_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    for name in sorted(TEMPLATE_NAMES):
        path = directory / "additional_chat_templates" / f"{name}.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    found = tokenizer_config.get("chat_template")
    for entry in found if isinstance(found, list) else []:
        if isinstance(entry, dict) and entry.get("name") in TEMPLATE_NAMES:
            source = entry.get("template")
            return source if isinstance(source, str) else None
    return None


def answer_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens of "no" and "yes".

    Raises:
        UnsupportedModel: One of them is not a single token.
    """
    found = [tokenizer.encode(word, add_special_tokens=False).ids for word in ("no", "yes")]
    if any(len(ids) != 1 for ids in found):
        raise UnsupportedModel('"yes" and "no" are not single tokens of this model')
    return found[0][0], found[1][0]


def _split_special(tokenizer: Tokenizer, text: str) -> list[int | str]:
    """Ids of special tokens and the texts between them."""
    added = tokenizer.get_added_tokens_decoder()
    ids = {token.content: token_id for token_id, token in added.items()}
    if not ids:
        return [text]
    longest_first = sorted(ids, key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return [ids.get(piece, piece) for piece in pieces if piece]


def _common(first: list[int], second: list[int]) -> int:
    """How many leading ids are the same."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
