"""A loaded vector model as the intake thread sees it: requests to rows, or a reason not to."""

import time
from collections.abc import Sequence

from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.errors import ContextTooLong, InvalidRequest
from lmx.protocol.messages import Ask, Embed, Inspect, Inspected, Score, Started
from lmx.worker.vectors import VectorJob


class VectorsServed:
    """Turns requests into jobs for the engine thread.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedVectors) -> None:
        self._tokenizer = loaded.tokenizer
        self._info = loaded.engine.info

    def accept(self, ask: Ask) -> tuple[list[Started], VectorJob]:
        """Everything that may refuse a request, before any device work.

        Raises:
            RequestError: The request cannot be answered by this model.
        """
        if isinstance(ask, Embed):
            job = self._embed(ask)
        elif isinstance(ask, Score):
            job = self._score(ask)
        else:
            kind = "an embedding" if self._info.purpose == "embedding" else "a reranking"
            raise InvalidRequest(f"this is {kind} model; it cannot generate text", param="model")
        return [Started(ask.sequence, job.token_count)], job

    def interrupt(self, sequence: int) -> None:
        """Batches are short; the one under way is not called back."""

    def inspect(self, command: Inspect) -> Inspected:
        """There is no prompt to be looked at.

        Raises:
            InvalidRequest: Always.
        """
        raise InvalidRequest("this model has no prompts", param="model")

    def _embed(self, ask: Embed) -> VectorJob:
        info = self._info
        if info.purpose != "embedding":
            raise InvalidRequest("this is a reranking model; it has no vectors", param="model")
        if ask.dimensions is not None and ask.dimensions > info.width:
            raise InvalidRequest(
                f"this model's vectors have {info.width} numbers", param="dimensions"
            )
        texts = [text for text in ask.inputs if isinstance(text, str)]
        encoded = iter(self._encode(texts, truncate=ask.truncate))
        rows = [
            next(encoded) if isinstance(given, str) else self._own_ids(given, truncate=ask.truncate)
            for given in ask.inputs
        ]
        self._check_lengths(rows, "input")
        return VectorJob(ask.sequence, rows, ready_at_s=time.monotonic(), dimensions=ask.dimensions)

    def _score(self, ask: Score) -> VectorJob:
        if self._info.purpose == "reranking":
            limit = self._tokenizer.max_tokens if ask.truncate else None
            rows = self._tokenizer.encode_pairs(ask.pairs, limit=limit)
            self._check_lengths(rows, "documents")
            return VectorJob(ask.sequence, rows, ready_at_s=time.monotonic())
        # Each text once, however many pairs it is in.
        places = {text: place for place, text in enumerate(dict.fromkeys(_texts(ask.pairs)))}
        rows = self._encode(list(places), truncate=ask.truncate)
        pairs = [(places[query], places[document]) for query, document in ask.pairs]
        self._check_lengths([rows[query] for query, _ in pairs], "query", is_list=False)
        self._check_lengths([rows[document] for _, document in pairs], "documents")
        return VectorJob(ask.sequence, rows, ready_at_s=time.monotonic(), pairs=pairs)

    def _encode(self, texts: Sequence[str], *, truncate: bool) -> list[TokenRow]:
        limit = self._tokenizer.max_tokens if truncate else None
        return self._tokenizer.encode(texts, limit=limit) if texts else []

    def _own_ids(self, ids: list[int], *, truncate: bool) -> TokenRow:
        """Token ids of the client's, which must be the model's own and are taken as they are."""
        size = self._tokenizer.vocabulary_size
        for token_id in ids:
            if not 0 <= token_id < size:
                raise InvalidRequest(f"the vocabulary has no token {token_id}", param="input")
        return TokenRow(ids[: self._tokenizer.max_tokens] if truncate else ids)

    def _check_lengths(self, rows: Sequence[TokenRow], param: str, *, is_list: bool = True) -> None:
        limit = self._tokenizer.max_tokens
        for index, row in enumerate(rows):
            if len(row.ids) > limit:
                raise ContextTooLong(
                    f"{param} {index} has {len(row.ids)} tokens, and this model reads at most "
                    f"{limit}; 'truncate' cuts inputs that are too long",
                    param=f"{param}.{index}" if is_list else param,
                )


def _texts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [text for pair in pairs for text in pair]
