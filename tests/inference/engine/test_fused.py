"""One call for all layers computes what separate layers do, and names arguments that don't fit."""

import pytest
import torch

from mini_moe import presets
from mini_moe.inference import Decoder, LatentCache
from mini_moe.inference.engine.fused import FEW, tensors_of
from mini_moe.model import Transformer
from mini_moe.ops.decode import TENSORS, flat
from tests.helpers import random_tokens, relative_error, small_model, without_shape_hook
from tests.kernels.cpu import NAMES, instructions, needs_library, threads

pytestmark = needs_library
KINDS = {
    "plain": {},
    "compressed queries": {"q_lora_rank": 12},
    "wide queries": {"q_lora_rank": 50},
    "groups": {"n_expert_groups": 4, "top_k_groups": 2},
    "softmax": {"score_function": "softmax", "expert_bias": False, "norm_topk_prob": False},
    "nothing shared": {"n_shared_experts": 0},
    "dense": {"n_dense_layers": 3},
    "odd widths": {"d_model": 37, "kv_lora_rank": 13, "d_expert": 19, "d_ff": 51, "v_head_dim": 9},
    "many heads": {"n_heads": 7},
}


def both(model, batch, pieces, seed=0):
    """Return vectors and caches of the fused pass and of the layers run one by one."""
    tokens, found = random_tokens(model.config, batch, sum(pieces), seed), []
    for fused in (True, False):
        decoder, cache = Decoder(model), LatentCache(model, batch)
        assert decoder.stack.fused.serves
        decoder.stack.fused.serves = fused
        embedded = model.embed_tokens(tokens).detach()
        parts = [decoder.run(decoder.stack, x, cache) for x in embedded.split(pieces, dim=1)]
        found.append((torch.cat(parts, dim=1), cache.numbers))
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "pieces"), [(1, [1, 1, 2, 9]), (3, [5, 1, 2]), (16, [1, 1])])
def test_the_fused_pass_matches_the_layers_one_by_one(kind, batch, pieces):
    assert batch * max(pieces) <= FEW
    (y, numbers), (expected, held) = both(small_model(**KINDS[kind]), batch, pieces)
    assert (y - expected).abs().max() < 1e-4
    assert relative_error(numbers, held) < 1e-5


@torch.no_grad()
def test_bfloat16_rounds_no_more_than_the_layers_do():
    everyone = {"n_routed_experts": 4, "top_k": 4}  # a rounded score can't tip a choice
    exact = both(small_model(**everyone), 2, [3, 1, 2])[0][0]
    (y, _), (expected, _) = both(small_model(**everyone).bfloat16(), 2, [3, 1, 2])
    assert y.dtype == torch.float32  # what is between layers is never rounded
    assert relative_error(y, exact) < relative_error(expected, exact) + 0.01


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["plain", "compressed queries", "odd widths"])
def test_every_instruction_set_decodes_the_same(name, kind):
    with instructions(name):
        (y, _), (expected, _) = both(small_model(**KINDS[kind]), 2, [3, 1, 2])
    assert (y - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "odd widths", "many heads"])
def test_bits_do_not_depend_on_threads_or_tokens_per_pass(kind):
    model = small_model(**KINDS[kind])
    tokens, results = random_tokens(model.config, 1, 33), []
    for number, pieces in [(1, [1] * 33), (2, [1] * 33), (7, [2, 3] * 6 + [3]), (3, [16, 9, 8])]:
        with threads(number):
            decoder, cache = Decoder(model), LatentCache(model)
            read = [decoder.read(piece, cache) for piece in tokens.split(pieces, dim=1)]
            results.append((torch.cat(read, dim=1), cache.numbers))
    for y, numbers in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(numbers, results[0][1])


@torch.no_grad()
def test_a_sequence_is_read_the_same_in_a_batch():
    torch.manual_seed(0)
    model = Transformer(presets.tiny()).eval()
    tokens = random_tokens(model.config, 4, 39)
    alone, together = LatentCache(model), LatentCache(model, 4)
    decoder = Decoder(model)
    for piece in tokens.split([1, 2, 4, 3, 3] * 3, dim=1):
        assert torch.equal(decoder.read(piece, together)[:1], decoder.read(piece[:1], alone))


@torch.no_grad()
def test_layers_with_different_top_k_are_not_fused():
    model, other = small_model(), small_model(top_k=3)
    model.layers[2].mlp.gate.config = other.config
    assert not Decoder(model).stack.fused.serves
    assert Decoder(other).stack.fused.serves


def arguments(**changes):
    """Return the arguments of `mini_moe::decode`, some of them changed by name."""
    model = small_model()
    stack = Decoder(model).stack.fused
    names = ("x", "numbers", "lengths", "rotation", "layers", "norm")
    values = (
        torch.randn(2, 3, 32), torch.zeros(3, 2, 20, 20), [4, 0], stack.rotation, stack.layers,
        stack.norm,
    )  # fmt: skip
    settings = ("heads", "d_v", "scale", "norm_eps", "latent_eps", "top_k")
    named = dict(zip(names, values, strict=True)) | dict(
        zip(settings, stack.settings, strict=False)
    )
    return [*(named | changes).values(), *stack.settings[len(settings) :]]


def with_layer(name, value):
    """Return the layers' tensors with one of the second layer's replaced."""
    layers = flat([tensors_of(block) for block in small_model().layers])
    layers[len(TENSORS) + TENSORS.index(name)] = value
    return {"layers": layers}


BAD = {
    "x": [{"x": torch.zeros(2, 32)}, {"x": torch.zeros(2, 0, 32)}, {"x": torch.zeros(2, 3, 31)},
          {"x": torch.zeros(2, 3, 32, dtype=torch.float64)}],
    "numbers": [{"numbers": torch.zeros(2, 2, 20, 20)}, {"numbers": torch.zeros(3, 2, 20, 4)},
                {"numbers": torch.zeros(3, 2, 20, 20, dtype=torch.bfloat16)},
                {"numbers": torch.zeros(3, 20, 2, 20).transpose(1, 2)}],
    "lengths": [{"lengths": [4]}, {"lengths": [4, -1]}, {"lengths": [18, 0]},
                {"lengths": [4, 2**62]}, {"numbers": torch.zeros(3, 1, 20, 20)}],
    "rotation": [{"rotation": torch.zeros(64, 2)}, {"rotation": torch.zeros(64, 2, 2).double()}],
    "layers": [{"layers": []}, {"layers": [torch.zeros(1)] * 17}],
    "norm": [{"norm": torch.zeros(31)}],
    "heads": [{"heads": 0}, {"heads": 5}, {"d_v": 0}, {"d_v": 17}],
    "top_k": [{"top_k": 0}, {"top_k": 9}],
    "query": [with_layer("query", torch.zeros(24, 31)), with_layer("query", torch.zeros(23, 32))],
    "up": [with_layer("up", torch.zeros(32, 15))],
    "router": [with_layer("router", torch.zeros(8, 32, dtype=torch.bfloat16))],
    "bias": [with_layer("bias", torch.zeros(7))],
    "gate_up_proj": [with_layer("gate_up_proj", torch.zeros(8, 2, 16)),
                     with_layer("gate_up_proj", torch.zeros(7, 2, 16, 32))],
    "down_proj": [with_layer("experts_down_proj", torch.zeros(8, 32, 15)),
                  with_layer("down_proj", torch.zeros(16, 32).T[:, ::2])],
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), [(n, c) for n, bad in BAD.items() for c in bad])
def test_arguments_that_do_not_fit_are_named_before_the_cache_is_touched(name, changes):
    given = arguments(**changes)
    before = given[1].clone()
    with pytest.raises(RuntimeError, match=r"mini_moe: [\w, ]+: .*expected, got") as error:
        torch.ops.mini_moe.decode(*given)
    mentioned = str(error.value).partition("mini_moe: ")[2].split(":")[0]
    # sizes are compared with earlier arguments, so the other argument may be named
    alike = {
        "x": {"input_norm"},
        "numbers": {"keep"},
        "heads": {"heads, d_v"},
        "up": {"latent_norm"},
    }
    assert mentioned in {name, *alike.get(name, ())} or "contiguous" in str(error.value)
    assert torch.equal(given[1], before)


def test_callers_get_a_value_error():
    from mini_moe.ops.decode import decode

    given = arguments(lengths=[30, 0])
    with without_shape_hook(), pytest.raises(ValueError, match="lengths: 0 to 17 expected, got 30"):
        decode(*given[:6], tuple(given[6:]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operations_pass_opcheck():
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.mini_moe.decode, tuple(arguments()), test_utils=tests)
    pair = torch.randn(3, 20), torch.randn(33, 20)
    torch.library.opcheck(torch.ops.mini_moe.few_rows, pair, test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 33, 17), (3, 16, 40), (5, 100, 192), (9, 7, 64)])
def test_products_of_few_rows_are_exact_up_to_fp32_rounding(shape, dtype):
    rows, n, k = shape
    x, w = torch.randn(rows, k), torch.randn(n, k).to(dtype)
    expected = x.double() @ w.double().T
    assert relative_error(torch.ops.mini_moe.few_rows(x, w), expected) < 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [5, 15, 41, 64])
def test_products_of_few_rows_match_each_row_alone(name, k):
    x, w = torch.randn(9, k), torch.randn(43, k)
    product = torch.ops.mini_moe.few_rows
    with instructions(name):
        for rows in range(2, 10):
            alone = [product(row[None], w) for row in x[:rows]]
            assert torch.equal(product(x[:rows], w), torch.cat(alone))


def test_a_product_of_mismatched_shapes_is_refused():
    for x, w in [((2, 3), (4, 5)), ((2, 3), (3,)), ((3,), (4, 3))]:
        with pytest.raises(RuntimeError, match="mini_moe: [xw]: .*expected, got"):
            torch.ops.mini_moe.few_rows(torch.zeros(x), torch.zeros(w))
    with pytest.raises(RuntimeError, match="x: float32 expected, got bfloat16"):
        torch.ops.mini_moe.few_rows(torch.zeros(2, 3).bfloat16(), torch.zeros(4, 3))
