"""Cache bytes per token, for each kind of attention."""

import pytest

from mini_moe import presets
from mini_moe.profiling import cache_bytes_per_token
from tests.helpers import small_config


def test_deepseek_v3_in_bfloat16():
    assert cache_bytes_per_token(presets.deepseek_v3()) == {
        "MLA": 70_272,
        "MLA, all heads": 4_997_120,
        "MHA": 3_997_696,
        "GQA-8": 249_856,
        "MQA": 31_232,
    }


def test_gqa_with_as_many_groups_as_heads_is_left_out():
    assert list(cache_bytes_per_token(small_config())) == ["MLA", "MLA, all heads", "MHA", "MQA"]
    assert "GQA-1" in cache_bytes_per_token(small_config(), groups=1)


def test_bytes_scale_with_the_dtype():
    narrow, wide = (cache_bytes_per_token(presets.tiny(), n) for n in (2, 4))
    assert wide == {kind: 2 * size for kind, size in narrow.items()}


@pytest.mark.parametrize("arguments", [{"bytes_per_number": 0}, {"groups": -1}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        cache_bytes_per_token(presets.tiny(), **arguments)
