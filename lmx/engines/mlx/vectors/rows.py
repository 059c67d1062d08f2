"""Token rows as arrays, padded to the longest, and how a batch is cut into such groups.

Knows lengths and ids. Padding is computed and thrown away, so rows of like length go together,
whatever order they come in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from lmx.engines.vectors import TokenRow

# Below this a product takes as long for fewer rows: the weights have to be read all the same.
SMALLEST_GROUP_TOKENS = 64


class Padded(NamedTuple):
    """Rows side by side, padded on the right.

    Attributes:
        ids: (B, L) int32.
        type_ids: (B, L) int32.
        lengths: (B,) int32.
        mask: (B, L) bool, true at tokens; `None` where there is no padding.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    mask: mx.array | None


def pad_rows(rows: Sequence[TokenRow], pad_id: int) -> Padded:
    """Make arrays of rows."""
    lengths = np.array([len(row.ids) for row in rows], np.int32)
    shape = (len(rows), int(lengths.max()))
    ids = np.full(shape, pad_id, np.int32)
    type_ids = np.zeros(shape, np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        if row.type_ids:
            type_ids[index, : len(row.type_ids)] = row.type_ids
    is_token = np.arange(shape[1])[None, :] < lengths[:, None]  # (B, L)
    return Padded(ids, type_ids, lengths, None if is_token.all() else mx.array(is_token))


def plan_groups(lengths: Sequence[int], group_tokens: int, parallel: int) -> list[list[int]]:
    """Which rows are computed together: groups of like length and about equal size.

    Args:
        lengths: Tokens of each row.
        group_tokens: About the most tokens of a group; a longer row is a group alone.
        parallel: How many groups are computed at once.

    Returns:
        Indices of rows, the longest first.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    total, longest = sum(lengths), lengths[order[0]]
    rounds = -(-total // (parallel * group_tokens))
    # One row more than its share, so that no small group is left over for another round.
    limit = max(SMALLEST_GROUP_TOKENS, -(-total // (parallel * rounds)) + longest - 1)
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
