"""RoPE and YaRN: the published numbers, and the property that RoPE is designed for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe import presets
from mini_moe.model.rope import (
    apply_rope,
    rope_frequencies,
    rope_rotation,
    softmax_scale,
    yarn_frequencies,
    yarn_temperature,
)
from tests.helpers import small_config

CPU = torch.device("cpu")


def rotation_at(position, width=8, **changes):
    config = small_config(qk_rope_head_dim=width, **changes)
    return rope_rotation(config, position, 1, CPU)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000))
def test_dot_product_depends_only_on_the_distance(first, second, shift):
    draw = torch.Generator().manual_seed(first)
    query, key = torch.randn(2, 1, 8, generator=draw)

    def score(at_query, at_key):
        turned = apply_rope(query, rotation_at(at_query)), apply_rope(key, rotation_at(at_key))
        return (turned[0] * turned[1]).sum()

    here, there = score(first, second), score(first + shift, second + shift)
    assert torch.allclose(here, there, atol=2e-3)


def test_rotation_keeps_lengths_and_is_undone_by_the_opposite_angle():
    x = torch.randn(2, 3, 10, 8)
    rotation = rope_rotation(small_config(qk_rope_head_dim=8), 0, 10, CPU)
    turned = apply_rope(x, rotation)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, :, 0], x[:, :, 0]), "position 0 is not rotated"
    back = apply_rope(turned, rotation * torch.tensor([1.0, -1.0]))
    assert torch.allclose(back, x, atol=1e-5)


def test_neighbouring_channels_form_a_pair():
    """Compare with complex numbers x[2i] + i·x[2i+1], the form used in DeepSeek's code."""
    x = torch.randn(10, 8)
    rotation = rope_rotation(small_config(qk_rope_head_dim=8), 0, 10, CPU)
    angles = torch.arange(10.0)[:, None] / 10_000 ** (torch.arange(4.0) / 4)
    turn = torch.polar(torch.ones_like(angles), angles)
    expected = torch.view_as_real(torch.view_as_complex(x.view(10, 4, 2)) * turn).flatten(-2)
    assert torch.allclose(apply_rope(x, rotation), expected, atol=1e-5)


def test_rotation_of_bfloat16_is_rounded_once():
    x = torch.randn(10, 8).bfloat16()
    rotation = rope_rotation(small_config(qk_rope_head_dim=8), 0, 10, CPU)
    assert torch.equal(apply_rope(x, rotation), apply_rope(x.float(), rotation).bfloat16())


def test_later_start_is_a_slice_of_the_whole():
    config = small_config(qk_rope_head_dim=8, yarn_factor=4.0, yarn_original_seq_len=16)
    whole = rope_rotation(config, 0, 20, CPU)
    assert torch.equal(rope_rotation(config, 13, 7, CPU), whole[13:])


def test_first_pair_turns_one_radian_per_position_and_the_last_hardly_at_all():
    frequencies = rope_frequencies(64, 10_000.0)
    assert frequencies[0] == 1
    assert frequencies[-1].item() == pytest.approx(10_000 ** (-62 / 64))
    assert len(frequencies) == 32


def test_yarn_of_deepseek_v3_keeps_eleven_pairs_and_divides_the_last_nine():
    """The ramp runs from pair 10 to pair 23 of 32."""
    config = presets.deepseek_v3()
    plain = rope_frequencies(64, 10_000.0)
    ratio = yarn_frequencies(config) / plain
    assert torch.allclose(ratio[:11], torch.ones(11))
    assert torch.allclose(ratio[23:], torch.full((9,), 1 / 40))
    ramp = torch.arange(0, 14) / 13
    assert torch.allclose(ratio[10:24], 1 - ramp * (1 - 1 / 40), atol=1e-6)


def test_yarn_temperature_and_softmax_scale_have_the_published_values():
    assert yarn_temperature(40.0, 1.0) == pytest.approx(1.36889, abs=5e-6)
    assert softmax_scale(presets.deepseek_v3()) == pytest.approx(0.135234, abs=5e-7)
    assert softmax_scale(presets.deepseek_v2()) == pytest.approx(
        192**-0.5 * (0.0707 * math.log(40) + 1) ** 2
    )


def test_without_yarn_the_scale_is_one_over_the_root_of_the_width():
    config = small_config()
    assert softmax_scale(config) == config.qk_head_dim**-0.5
    assert torch.equal(yarn_frequencies(config), rope_frequencies(4, 10_000.0))


@pytest.mark.parametrize(
    ("mscale", "mscale_all_dim", "length"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 0.5, yarn_temperature(4.0, 1.0) / yarn_temperature(4.0, 0.5)),
        (0.0, 1.0, yarn_temperature(4.0, 1.0)),
        (0.0, 0.0, yarn_temperature(4.0, 1.0)),
    ],
)
def test_mscale_stretches_the_rotated_part(mscale, mscale_all_dim, length):
    rotation = rotation_at(
        3,
        yarn_factor=4.0,
        yarn_original_seq_len=16,
        yarn_mscale=mscale,
        yarn_mscale_all_dim=mscale_all_dim,
    )
    assert torch.allclose(rotation.norm(dim=-1), torch.tensor(length), atol=1e-6)
