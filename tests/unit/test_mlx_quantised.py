"""Caches of 8-bit values batch like full-precision ones, and hold what mlx-lm's lone ones do."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, KVCache, QuantizedKVCache, RotatingKVCache
from mlx_lm.utils import load_model

from lmx.engines.base import Choice
from lmx.engines.mlx.caches import CacheRows, can_batch, can_pad, kv_bytes_per_token, quantise
from lmx.engines.mlx.engine import MlxEngine
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.quantised import BatchQuantisedCache, QuantisedCache
from lmx.errors import UnsupportedModel
from lmx.protocol.values import ModelInfo, Sampling
from tests.tiny_models import build_tiny_llama

HEADS, WIDTH, GROUP = 2, 64, 32
PROMPTS = [[5, 9, 200, 31], [44], list(range(1, 90)), [17, 4, 99], list(range(200, 60, -1))]
LIMITS = PrefillLimits(chunk_tokens=32, max_rows=8)


def noise(rows: int, tokens: int, seed: int) -> mx.array:
    """Keys or values of so many tokens."""
    shape = (rows, HEADS, tokens, WIDTH)
    drawn: mx.array = mx.random.normal(shape, key=mx.random.key(seed))
    return drawn


def filled(tokens: int, seed: int) -> QuantisedCache:
    """A lone row of so many tokens."""
    cache = QuantisedCache(GROUP)
    if tokens:
        cache.update_and_fetch(noise(1, tokens, seed), noise(1, tokens, seed + 100))
    return cache


def floats(side: Any) -> mx.array:
    """What a triple stands for."""
    restored: mx.array = mx.dequantize(*side, group_size=GROUP, bits=8)
    return restored


def same(cache: Any, other: Any) -> bool:
    """Two lone caches hold the same bits."""
    pairs = zip(cache.keys_and_values(), other.keys_and_values(), strict=True)
    return cache.offset == other.offset and all(
        mx.array_equal(a, b).item() for x, y in pairs for a, b in zip(x, y, strict=True)
    )


def test_a_lone_row_is_what_mlx_lm_makes_of_it() -> None:
    """The same bits as its own quantised cache, token by token and in pieces."""
    ours, theirs = QuantisedCache(GROUP), QuantizedKVCache(GROUP, 8)
    for seed, tokens in enumerate((3, 1, 300, 1)):
        for cache in (ours, theirs):
            cache.update_and_fetch(noise(1, tokens, seed), noise(1, tokens, seed + 9))
    assert same(ours, theirs)
    assert (305, 305) == (ours.size(), ours.offset)


def test_rows_come_out_as_they_went_in() -> None:
    """Merged, extended, filtered and added to, each row has its own bits."""
    lengths = (3, 0, 260, 7)
    rows = [filled(length, seed) for seed, length in enumerate(lengths)]
    batch = QuantisedCache.merge(rows[:2])
    batch.extend(QuantisedCache.merge(rows[2:]))
    more = noise(4, 1, 50), noise(4, 1, 51)
    batch.update_and_fetch(*more)
    for index, row in enumerate(rows):
        row.update_and_fetch(*(part[index : index + 1] for part in more))
        assert same(row, batch.extract(index))
    batch.filter(mx.array([0, 3]))
    assert 8 == batch.size()
    assert [4, 8] == batch.offset.tolist()
    assert same(rows[3], batch.extract(1))
    assert same(rows[0], batch.extract(0))


def test_empty_batches_join() -> None:
    """Rows without tokens on either side, or on both."""
    empty = QuantisedCache.merge([filled(0, 1), filled(0, 2)])
    empty.extend(QuantisedCache.merge([filled(0, 3)]))
    assert (None, 0, 3) == (empty.keys, empty.nbytes, empty.offset.size)
    empty.extend(QuantisedCache.merge([filled(4, 4)]))
    assert [0, 0, 0, 4] == [empty.extract(index).offset for index in range(4)]
    full = QuantisedCache.merge([filled(2, 5)])
    full.extend(QuantisedCache.merge([filled(0, 6)]))
    assert [2, 0] == [full.extract(index).offset for index in range(2)]


def test_padding_on_the_right_moves_to_the_left() -> None:
    """As in mlx-lm's batch of floats, with the same offsets."""
    batch = QuantisedCache.merge([filled(0, 1), filled(0, 2)])
    plain = KVCache.merge([KVCache(), KVCache()])
    keys, values = noise(2, 5, 1), noise(2, 5, 2)
    for cache in (batch, plain):
        cache.prepare(lengths=[5, 2], right_padding=[0, 3])
        cache.update_and_fetch(keys, values)
        cache.finalize()
    assert isinstance(plain, BatchKVCache)
    assert plain.offset.tolist() == batch.offset.tolist()
    assert plain.left_padding.tolist() == batch.left_padding.tolist()
    row = floats(batch.extract(1).keys)
    assert mx.allclose(keys[1:, :, :2], row, atol=0.05).item()


def test_a_batch_grows_past_its_room() -> None:
    """What was there stays when arrays are made longer, also after a cut in the middle of them."""
    batch = QuantisedCache.merge([filled(250, 1), filled(2, 2)])
    expected = floats(batch.extract(0).values)
    for step in range(20):
        batch.update_and_fetch(noise(2, 1, step), noise(2, 1, step + 1))
        if step == 10:
            batch.trim(3)
    assert 250 + 17 == batch.size()
    assert mx.array_equal(expected, floats(batch.extract(0).values)[:, :, :250]).item()
    assert isinstance(batch, BatchQuantisedCache)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Llama with heads of 32, quantising its cache."""
    directory = build_tiny_llama(tmp_path_factory.mktemp("wide"), head_dim=32)
    loaded, _ = load_model(directory)
    quantise(loaded)
    return loaded


def test_a_model_that_quantises_can_do_what_others_can(model: Any) -> None:
    """It batches and pads; rows are replicated, and taken out, in the same classes."""
    assert can_batch(model)
    assert can_pad(model)
    assert isinstance(
        CacheRows.merged([CacheRows.single(model)] * 2).layers[0], BatchQuantisedCache
    )
    rows = CacheRows([filled(3, 1)], is_batched=False)
    rows.replicate([0, 0, 0])
    assert same(filled(3, 1), rows.some([1]).layers[0])


def test_a_token_takes_what_was_computed(model: Any) -> None:
    """Two layers of two heads of 32: 8 bits a value, and 32 for a scale and for a bias of 32."""
    assert 2 * 2 * 2 * (32 + 2 * 4) == kv_bytes_per_token(model)


def test_quantised_rows_equal_lone_ones(model: Any) -> None:
    """Padded prefill, joins and ends: greedy tokens are those of mlx-lm's own quantised cache."""
    expected = {}
    for index, prompt in enumerate(PROMPTS):
        caches = [QuantizedKVCache(GROUP, 8) for _ in model.layers]
        tokens, ids = [], mx.array([prompt])
        for _ in range(20 - index):
            ids = mx.argmax(model(ids, cache=caches)[:, -1:, :], axis=-1)
            tokens.append(ids.item())
        expected[index] = tokens
    for gap in (0, 3):
        info = ModelInfo(context_tokens=512, max_sequences=8)
        engine = MlxEngine(model, info, end_ids=frozenset(), limits=LIMITS, vocabulary_size=274)
        found: dict[int, list[int]] = {}
        for index, prompt in enumerate(PROMPTS):
            engine.add([Choice(index, Sampling(20 - index, temperature=0.0))], prompt)
            for result in [result for _ in range(gap) for result in engine.step()]:
                found.setdefault(result.sequence_id, []).append(result.token_id)
        while engine.free_slots < info.max_sequences:
            for result in engine.step():
                found.setdefault(result.sequence_id, []).append(result.token_id)
        assert expected == found


def test_heads_that_no_group_divides_are_refused(tmp_path: Path) -> None:
    """The reason names the setting and the size."""
    narrow, _ = load_model(build_tiny_llama(tmp_path))
    with pytest.raises(UnsupportedModel, match=r"models.kv_bits .* heads have 16 values"):
        quantise(narrow)


def test_other_caches_are_refused() -> None:
    """A window cannot be quantised; the reason names it."""
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    config |= {"intermediate_size": 64, "num_attention_heads": 2, "rms_norm_eps": 1e-5}
    config |= {"vocab_size": 64, "sliding_window": 16}
    types = ["full_attention", "sliding_attention"]
    sliding = llama.Model(llama.ModelArgs.from_dict(config | {"layer_types": types}))
    assert isinstance(sliding.make_cache()[1], RotatingKVCache)
    with pytest.raises(UnsupportedModel, match=r"models.kv_bits .* RotatingKVCache"):
        quantise(sliding)


def test_an_attention_that_cannot_read_them_is_refused() -> None:
    """Some models compute with the arrays of their cache themselves."""

    class Reader:
        def make_cache(self) -> list[Any]:
            return [KVCache()]

        def __call__(self, ids: mx.array, cache: list[Any]) -> mx.array:
            new = mx.zeros((1, 1, ids.shape[1], 32))
            keys, _ = cache[0].update_and_fetch(new, new)
            total: mx.array = keys.sum()
            return total

    with pytest.raises(UnsupportedModel, match="attention does not read"):
        quantise(Reader())


@pytest.mark.parametrize("kind", ["lone", "batch"])
def test_many_new_tokens_are_computed_from_floats(kind: str) -> None:
    """A long chunk gets arrays that mlx-lm's fused attention takes, the same values as a short."""
    cache: Any = filled(3, 1) if kind == "lone" else QuantisedCache.merge([filled(3, 1)])
    keys, _ = cache.update_and_fetch(noise(1, 17, 2), noise(1, 17, 3))
    assert not hasattr(cache, "bits")
    assert (1, HEADS, 20, WIDTH) == keys.shape
    assert cache.state[0] is cache.keys
    quantised, _ = cache.update_and_fetch(noise(1, 1, 4), noise(1, 1, 5))
    assert 8 == cache.bits
    assert mx.array_equal(keys, floats(quantised)[:, :, :20]).item()
