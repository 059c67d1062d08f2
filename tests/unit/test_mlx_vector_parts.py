"""The parts of MLX's vector engine that need no model: curves, pooling, and how batches are cut."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.mlx import curves
from lmx.engines.mlx.vectors import attention
from lmx.engines.mlx.vectors.activations import ALIASES, COMMON, ON_CPU, ON_GPU, find_activation
from lmx.engines.mlx.vectors.pooling import POOLINGS, Dense, Pooling, normalise
from lmx.engines.mlx.vectors.rows import SMALLEST_GROUP_TOKENS, pad_rows, plan_groups
from lmx.engines.mlx.vectors.weights import Linear
from lmx.engines.vectors import TokenRow
from lmx.errors import UnsupportedModel

POINTS = np.concatenate([np.linspace(-12, 12, 4001), [0, -60, 60, -1e4, 1e4, -1e30, 1e30]])
CURVES: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
    "tanh_gelu": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + math.exp(-max(x, -700))),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_activations_are_what_they_are_called(name: str, device: str) -> None:
    """Both forms are within rounding of the definition, far out as well."""
    points = POINTS if device == "cpu" else POINTS[np.abs(POINTS) < 100]
    expected = np.array([CURVES[name](float(x)) for x in points.astype(np.float32)])
    found = np.array((ON_CPU if device == "cpu" else ON_GPU)[name](mx.array(points, mx.float32)))
    assert np.isfinite(found).all()
    assert np.abs((found - expected) / np.maximum(1, np.abs(expected))).max() <= 2e-6


def test_the_exponential_is_exact_enough_for_softmax() -> None:
    """Shares of a softmax made of it are right to millionths, and vanish instead of failing."""
    distances = np.concatenate([np.linspace(0, 30, 3001), [100, 1e4, 1e9, 1e12]])
    found = np.array(1 / curves.exp_of_sixteenth(mx.array(distances / 16, mx.float32)))
    assert np.isfinite(found).all()
    assert np.abs(found - np.exp(-distances)).max() <= 2e-6


@pytest.mark.parametrize("name", [*ALIASES, *ON_CPU, *COMMON, "GELU", "SiLU"])
def test_names_of_activations(name: str) -> None:
    """Each spelling that configurations use is known, whatever its case."""
    assert callable(find_activation(name, field="hidden_act"))


@pytest.mark.parametrize("name", ["mish", "", None, 3])
def test_unknown_activations_are_named(name: object) -> None:
    """An activation that is not known is refused by name, with the field it stands in."""
    with pytest.raises(UnsupportedModel, match="hidden_act") as refused:
        find_activation(name, field="hidden_act")
    assert repr(name) in refused.value.message


# One row of three tokens and one of a single token, both beside padding that must not count.
STATES = mx.array(
    [[[1.0, -2.0], [3.0, -6.0], [5.0, -1.0], [99.0, 99.0]], [[4.0, -8.0], *[[99.0, 99.0]] * 3]]
)
LENGTHS = mx.array([3, 1])
ROOT = math.sqrt(3)
POOLED = {
    "cls": [[1, -2], [4, -8]],
    "lasttoken": [[5, -1], [4, -8]],
    "max": [[5, -1], [4, -8]],
    "mean": [[3, -3], [4, -8]],
    "mean_sqrt_len_tokens": [[9 / ROOT, -9 / ROOT], [4, -8]],
    "weightedmean": [[22 / 6, -17 / 6], [4, -8]],
}


@pytest.mark.parametrize("kind", POOLED)
def test_pooling(kind: str) -> None:
    """Each kind counts the row's own tokens and nothing of the padding."""
    found = np.array(Pooling([kind])(STATES, LENGTHS))
    assert np.allclose(POOLED[kind], found, atol=1e-6)


def test_every_pooling_is_tabled() -> None:
    """A pooling that somebody adds gets a row above."""
    assert set(POOLINGS) == set(POOLED)


def test_several_poolings_follow_each_other() -> None:
    """Two kinds give a vector of twice the width, in float32 whatever the states are in."""
    found = Pooling(["cls", "mean"])(STATES.astype(mx.float16), LENGTHS)
    assert mx.float32 == found.dtype
    assert [[1, -2, 3, -3], [4, -8, 4, -8]] == found.tolist()


def test_dense_and_normalise() -> None:
    """A layer with its activation, then length 1; a vector of zeros stays one."""
    layer = Linear(mx.array([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]), mx.array([0.5, 0.0, 0.0]))
    found = Dense(layer, mx.tanh)(mx.array([[1.0, 2.0]]), LENGTHS)
    assert np.allclose([np.tanh([3.5, 4.0, 0.0])], np.array(found), atol=1e-6)
    units = np.array(normalise(mx.array([[3.0, 4.0], [0.0, 0.0]]), LENGTHS))
    assert np.allclose([[0.6, 0.8], [0, 0]], units, atol=1e-6)


def test_rows_are_padded_on_the_right() -> None:
    """Ids and segments keep their places; without padding there is no mask at all."""
    padded = pad_rows([TokenRow([5, 6, 7], [0, 1, 1]), TokenRow([8])], pad_id=9)
    assert [[5, 6, 7], [8, 9, 9]] == padded.ids.tolist()
    assert [[0, 1, 1], [0, 0, 0]] == padded.type_ids.tolist()
    assert [3, 1] == padded.lengths.tolist()
    assert padded.mask is not None
    assert [[True] * 3, [True, False, False]] == padded.mask.tolist()
    assert pad_rows([TokenRow([1, 2]), TokenRow([3, 4])], pad_id=0).mask is None


@pytest.mark.parametrize("window", [None, 1, 8, 70])
@pytest.mark.parametrize("lengths", [[200, 200], [200, 3, 130]])
def test_both_kinds_of_attention_agree(window: int | None, lengths: list[int]) -> None:
    """A GPU's kernel and a CPU's blocks give the same at tokens, and numbers at padding, too."""
    generator = np.random.default_rng(1)
    shape = (len(lengths), 2, 200, 8)
    parts = [mx.array(generator.standard_normal(shape).astype(np.float32)) for _ in range(3)]
    mask = pad_rows([TokenRow([1] * length) for length in lengths], pad_id=0).mask
    view = attention.make_view(mask, 200)
    fused = np.array(attention.fused(*parts, view=view, window=window))
    blocks = np.array(attention.in_blocks(*parts, view=view, window=window))
    assert np.isfinite(fused).all()
    assert np.isfinite(blocks).all()
    for index, length in enumerate(lengths):
        assert np.abs(fused - blocks)[index, :, :length].max() <= 2e-5


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=200),
    group_tokens=st.integers(64, 2048),
    parallel=st.integers(1, 8),
)
def test_groups_hold_every_row_once(lengths: list[int], group_tokens: int, parallel: int) -> None:
    """Rows of like length go together, each once, and no group is much larger than it should be."""
    groups = plan_groups(lengths, group_tokens, parallel)
    assert list(range(len(lengths))) == sorted(index for group in groups for index in group)
    ordered = [lengths[index] for group in groups for index in group]
    assert sorted(lengths, reverse=True) == ordered
    limit = max(group_tokens, SMALLEST_GROUP_TOKENS) + max(lengths)
    assert all(len(group) * lengths[group[0]] <= limit for group in groups)


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [
        (256, 17, [43, 43, 43, 43, 43, 41]),
        (32, 17, [16, 16]),
        (2, 10, [2]),
        (1, 5000, [1]),
        (8, 256, [4, 4]),
    ],
)
def test_equal_rows_make_equal_groups(count: int, length: int, expected: list[int]) -> None:
    """Two cores get an even number of groups of one size; what is small stays together."""
    groups = plan_groups([length] * count, 1024, 2)
    assert expected == [len(group) for group in groups]
