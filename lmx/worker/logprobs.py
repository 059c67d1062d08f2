"""Log-probabilities of ids as log-probabilities of text. Knows the vocabulary, no dialect."""

from collections.abc import Sequence

from lmx.engines.base import Tokenizer, TokenLogprobs
from lmx.protocol.values import TokenLogprob


def describe_token(token_id: int, scores: TokenLogprobs, tokenizer: Tokenizer) -> TokenLogprob:
    """One sampled token with its alternatives."""
    top = [_named(other, logprob, tokenizer) for other, logprob in scores.top]
    return _named(token_id, scores.logprob, tokenizer, top=top)


def describe_prompt(
    token_ids: Sequence[int],
    scores: Sequence[TokenLogprobs | None],
    tokenizer: Tokenizer,
) -> list[TokenLogprob]:
    """Every prompt token; the first has no log-probability, because nothing predicts it."""
    return [
        _named(token_id, None, tokenizer)
        if score is None
        else describe_token(token_id, score, tokenizer)
        for token_id, score in zip(token_ids, scores, strict=True)
    ]


def _named(
    token_id: int,
    logprob: float | None,
    tokenizer: Tokenizer,
    *,
    top: Sequence[TokenLogprob] = (),
) -> TokenLogprob:
    spelled = tokenizer.token_bytes(token_id)
    return TokenLogprob(spelled.decode("utf-8", "replace"), spelled, logprob, list(top))
