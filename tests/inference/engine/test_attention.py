"""In-place rotation and attention on rebuilt keys match the model."""

import pytest
import torch

from mini_moe.inference import LatentCache
from mini_moe.inference.engine.attention import Place, turn
from mini_moe.model.rope import apply_rope, rope_rotation
from mini_moe.ops import causal_attention, latent_attention, use
from tests.helpers import TOLERANCE, relative_error, small_model


def table(model):
    """Return all rotations as complex numbers."""
    config = model.config
    return torch.view_as_complex(
        rope_rotation(config, 0, config.max_seq_len, torch.device("cpu")).contiguous()
    )


@pytest.mark.parametrize("first", [0, 4, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_in_place_is_rope_on_the_last_channels(first, shape, dtype):
    model, start = small_model(), 7
    batch, new, heads = shape
    made = torch.randn(*shape, first + 4).to(dtype)
    rotation = rope_rotation(model.config, start, new, torch.device("cpu"))
    expected = apply_rope(made[..., first:].transpose(1, 2), rotation).transpose(1, 2)
    kept = made[..., :first].clone()
    turn(made, first, table(model)[None, start : start + new, None])
    assert torch.equal(made[..., :first], kept)
    assert relative_error(made[..., first:], expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("form", ["compiled", "pytorch", "definition"])
@pytest.mark.parametrize(("new", "keys"), [(1, 1), (1, 9), (5, 9), (9, 9), (130, 200)])
def test_attention_on_rebuilt_keys_is_causal(form, new, keys):
    query, made = torch.randn(2, new, 3, 12), torch.randn(2, keys, 3, 8 + 6)
    key_rope = torch.randn(2, keys, 20)[..., 3:7]  # a slice, as from a cache
    shared = key_rope[:, :, None].expand(-1, -1, 3, -1)
    key = torch.cat((made[..., :8], shared), dim=-1).transpose(1, 2)
    expected = causal_attention(query.transpose(1, 2), key, made[..., 8:].transpose(1, 2), 0.3)
    with use(form):
        found = latent_attention(query, made, key_rope, 0.3)
    assert relative_error(found, expected.transpose(1, 2)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("lengths", [[0, 0], [3, 3], [4, 1]])
def test_new_positions_are_written_after_each_sequences_last(lengths):
    model = small_model()
    cache, new = LatentCache(model, 2), 2
    cache.lengths = lengths
    place = Place(cache, new, table(model), absorbed=True)
    latent, key_rope = torch.randn(2 * new, 16), torch.randn(2, new, 4)
    place.write(1, latent, key_rope)
    expected = torch.zeros_like(cache.numbers)
    for index, length in enumerate(lengths):
        own = torch.cat((latent.view(2, new, 16)[index], key_rope[index]), dim=-1)
        expected[1, index, length : length + new] = own
    assert torch.equal(cache.numbers, expected)


@pytest.mark.parametrize("lengths", [[3, 3], [4, 1]])
def test_later_positions_are_hidden(lengths):
    model, new = small_model(), 2
    cache = LatentCache(model, 2)
    cache.lengths = lengths
    hidden = Place(cache, new, table(model), absorbed=True).hidden_from
    hidden = hidden.expand(2, new, 1, max(lengths) + new)[:, :, 0]
    for index, length in enumerate(lengths):
        for place in range(new):
            seen = (~hidden[index, place]).nonzero().flatten().tolist()
            assert seen == list(range(length + place + 1))
