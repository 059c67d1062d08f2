"""Layers that multiply all rows of a batch as one matrix say what MLX's own say."""

import mlx.core as mx
import pytest
from mlx import nn

from lmx.engines.mlx.flat import MATRIX_ROWS, FlatEmbedding, FlatLinear, flatten_quantised
from tests.random_models import random_model

SHAPES = [(1, 1), (2, 1), (5, 1), (MATRIX_ROWS, 1), (3, 2), (3, 7)]


class Counting(nn.QuantizedLinear):
    """Says what shapes it is asked to multiply."""

    def __init__(self) -> None:
        super().__init__(64, 8, bias=False, group_size=32, bits=4)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, x: mx.array) -> mx.array:
        self.seen.append(x.shape)
        product: mx.array = super().__call__(x)
        return product


class FlatCounting(FlatLinear, Counting):
    """The same layer, flat."""


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((1, 1, 64), (1, 64)),
        ((3, 1, 64), (3, 64)),
        ((4, 1, 64), (MATRIX_ROWS, 64)),
        ((7, 1, 64), (MATRIX_ROWS, 64)),
        ((2, 9, 64), (18, 64)),
    ],
)
def test_rows_are_one_matrix(shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
    """Of as many rows as MLX multiplies as one, where that takes no longer."""
    layer = FlatCounting()
    assert (*shape[:-1], 8) == layer(mx.ones(shape)).shape
    assert [seen] == layer.seen


@pytest.mark.parametrize(("rows", "tokens"), SHAPES)
def test_a_flat_model_gives_the_same_logits(rows: int, tokens: int) -> None:
    """For any number of rows, those that are filled up to a matrix among them."""
    model = random_model("plain")
    nn.quantize(model, group_size=32, bits=4)
    token_ids = mx.arange(rows * tokens).reshape(rows, tokens)
    expected = model(token_ids)
    flatten_quantised(model)
    found = model(token_ids)
    assert expected.shape == found.shape
    assert mx.allclose(expected, found, atol=1e-4).item()


def test_every_quantised_layer_is_one() -> None:
    """The embedding, which is the output layer of many models, too; others stay what they are."""
    model = random_model("plain")
    nn.quantize(model, group_size=32, bits=4)
    before = [type(module) for module in model.modules()]
    weights = dict(model.parameters())
    flatten_quantised(model)
    after = [type(module) for module in model.modules()]
    flat = {nn.QuantizedLinear: FlatLinear, nn.QuantizedEmbedding: FlatEmbedding}
    assert [flat.get(kind, kind) for kind in before] == after
    assert {FlatLinear, FlatEmbedding} <= set(after)
    assert weights == dict(model.parameters())
