"""Where a sequence has said the same before, and what came next there. Knows token ids only.

One dictionary holds the last place of every pair of tokens, and a list links each place to the one
before it with the same pair, as in a compressor of the LZ77 family. So a token costs the same
however long the text is, and the longest match among the last few places is found without a scan.
While the text follows its source no search is made at all. A prompt is entered as a whole, by
sorting its pairs, which takes a tenth of the time.
"""

from collections.abc import Sequence

import numpy as np

# The shortest match, which is what the index is made of.
PAIR = 2
# Places with the same pair that are compared, the latest ones.
MOST_PLACES = 16
# A longer match says no more.
LONGEST_MATCH = 32
# Of an answer that was not looked at for long, so that no single step takes long.
INDEXED_AT_ONCE = 8192
NOWHERE = -1


class Lookup:
    """Predicts a sequence's next tokens from its own text.

    Args:
        token_ids: The prompt.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._tokens = list(token_ids)
        self._prompt_count = len(self._tokens)
        # Places are where what follows a pair begins; `_earlier` has one entry per indexed token.
        self._latest: dict[int, int] = {}
        self._earlier: list[int] = []
        self._source = NOWHERE
        self._match_tokens = 0

    @property
    def match_tokens(self) -> int:
        """How many tokens before the source are those before the end; 0 without a source."""
        return self._match_tokens

    @property
    def token_ids(self) -> Sequence[int]:
        """The prompt and everything appended; only read."""
        return self._tokens

    def append(self, token_id: int) -> None:
        """Note the next token. Costs nothing until `catch_up`."""
        self._tokens.append(token_id)

    def catch_up(self) -> list[tuple[int, bool]]:
        """Index what is not indexed yet, or as much of it as one step may cost.

        Returns:
            For each of these tokens that was predicted, how long the match was that predicted it,
            and whether it came true. Tokens of the prompt are no predictions.
        """
        told: list[tuple[int, bool]] = []
        if not self._earlier:
            self._index_prompt()
        end = min(len(self._tokens), len(self._earlier) + INDEXED_AT_ONCE)
        for place in range(len(self._earlier), end):
            self._compare(place, told)
            self._index(place)
        is_caught_up = end == len(self._tokens)
        if self._source == NOWHERE and is_caught_up:
            self._search()
        return told

    def predict(self, count: int) -> list[int]:
        """The next tokens, as they came after the source; empty without one.

        Where the source runs into the end of the text, the text repeats itself and goes on so.
        """
        is_caught_up = len(self._earlier) == len(self._tokens)
        if self._source == NOWHERE or not is_caught_up:
            return []
        period = len(self._tokens) - self._source
        return [self._tokens[self._source + i % period] for i in range(count)]

    def _compare(self, place: int, told: list[tuple[int, bool]]) -> None:
        if self._source == NOWHERE:
            self._search(place)
        if self._source == NOWHERE:
            return
        is_right = self._tokens[self._source] == self._tokens[place]
        told.append((self._match_tokens, is_right))
        if is_right:
            self._source += 1
            self._match_tokens = min(self._match_tokens + 1, LONGEST_MATCH)
        else:
            self._source, self._match_tokens = NOWHERE, 0

    def _index_prompt(self) -> None:
        """Enter every token of the prompt, as `_index` would one by one."""
        tokens = np.array(self._tokens[: self._prompt_count], np.int64)
        self._earlier = [NOWHERE] * min(PAIR, len(tokens))
        if len(tokens) <= PAIR:
            return
        pairs = tokens[:-PAIR] << 32 | tokens[1:-1]
        order = np.argsort(pairs, kind="stable")  # equal pairs side by side, the latest last
        places, sorted_pairs = order + PAIR, pairs[order]
        is_last = np.append(sorted_pairs[1:] != sorted_pairs[:-1], True)
        earlier = np.full(len(pairs), NOWHERE)
        earlier[order[1:][~is_last[:-1]]] = places[:-1][~is_last[:-1]]
        self._earlier += earlier.tolist()
        self._latest = dict(
            zip(sorted_pairs[is_last].tolist(), places[is_last].tolist(), strict=True)
        )

    def _index(self, place: int) -> None:
        """Enter that this token follows the two before it."""
        if place < PAIR:
            self._earlier.append(NOWHERE)
            return
        pair = self._pair_before(place)
        self._earlier.append(self._latest.get(pair, NOWHERE))
        self._latest[pair] = place

    def _search(self, end: int | None = None) -> None:
        """Find the source of what comes at `end`, or at the end of the text."""
        end = len(self._tokens) if end is None else end
        if end < PAIR:
            return
        place = self._latest.get(self._pair_before(end), NOWHERE)
        for _ in range(MOST_PLACES):
            if place == NOWHERE:
                return
            match_tokens = self._match(place, end)
            if match_tokens > self._match_tokens:
                self._source, self._match_tokens = place, match_tokens
            place = self._earlier[place]

    def _match(self, place: int, end: int) -> int:
        """How many tokens before two places are equal, at least a pair."""
        tokens, length = self._tokens, PAIR
        most = min(place, LONGEST_MATCH)
        while length < most and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length

    def _pair_before(self, place: int) -> int:
        return self._tokens[place - 2] << 32 | self._tokens[place - 1]
