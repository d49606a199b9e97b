"""Traces of transformers models hold what their layers used; recording them changes nothing."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mini_moe import load_hf, trace_routing
from mini_moe.routing.foreign import SUPPORTED, find_blocks, recording
from tests.helpers import TOLERANCE, relative_error, without_shape_hook
from tests.hf_oracle import random_hf_model
from tests.routing.foreign_models import (
    CASES,
    VOCAB,
    expert_outputs,
    foreign_model,
    random_model,
    shared_output,
)

TOKENS = torch.randint(VOCAB, (2, 13), generator=torch.Generator().manual_seed(1))
all_cases = pytest.mark.parametrize("case", CASES)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def run_watched(model, tokens):
    """Run the model once and return each MoE block's module, input and output, by layer."""
    blocks = {layer: owner(model, experts) for layer, (_, experts) in find_blocks(model).items()}
    seen = {}

    def watch(layer):
        def hook(_, inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            seen[layer] = inputs[0].flatten(0, 1), first.flatten(0, 1)

        return hook

    handles = [block.register_forward_hook(watch(layer)) for layer, block in blocks.items()]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return {layer: (blocks[layer], *seen[layer]) for layer in blocks}


def owner(model, experts):
    return next(m for m in model.modules() if getattr(m, "experts", None) is experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@all_cases
@torch.no_grad()
def test_recorded_choice_and_gates_give_the_layers_output(case, dtype):
    model = foreign_model(case).to(dtype)
    trace = trace_routing(model, TOKENS)
    assert trace.layers == CASES[case][2]
    watched = run_watched(model, TOKENS)
    for place, layer in enumerate(trace.layers):
        block, x, y = watched[layer]
        outputs = expert_outputs(block.experts, x).float()
        ids = trace.expert_ids[place][..., None].expand(-1, -1, x.shape[-1])
        mixed = (outputs.gather(1, ids) * trace.gates[place][..., None]).sum(1)
        assert relative_error(y, mixed + shared_output(block, x)) < TOLERANCE[dtype]


@all_cases
@torch.no_grad()
def test_recorded_logits_are_the_routers_own(case):
    model = foreign_model(case)
    theirs = model(TOKENS, output_router_logits=True).router_logits
    trace = trace_routing(model, TOKENS)
    assert torch.equal(trace.router_logits, torch.stack(theirs).view_as(trace.router_logits))


@all_cases
def test_choices_are_the_best_choice_scores_in_order(case):
    trace = trace_routing(foreign_model(case), TOKENS)
    best = trace.choice_scores.topk(trace.top_k, dim=-1)
    assert torch.equal(trace.expert_ids, best.indices)
    assert (trace.n_experts, trace.top_k) == (8, 3)


@all_cases
def test_gates_come_from_the_scores_by_each_familys_rule(case):
    model = foreign_model(case)
    trace = trace_routing(model, TOKENS)
    expected = trace.scores.gather(-1, trace.expert_ids)
    divided = {"deepseek-v2": False, "deepseek-v2-groups": False, "mixtral": True, "gpt-oss": True}
    if divided.get(case, getattr(model.config, "norm_topk_prob", None)):
        expected = expected / expected.sum(-1, keepdim=True)
    expected = expected * getattr(model.config, "routed_scaling_factor", 1.0)
    assert relative_error(trace.gates, expected) < 1e-6
    assert trace.score_function == ("sigmoid" if case in SIGMOID else "softmax")
    totals = trace.scores.sum(-1)
    is_softmax = torch.allclose(totals, torch.ones_like(totals))
    assert is_softmax == (case not in SIGMOID)


SIGMOID = ("deepseek-v3", "moonlight", "glm-4-moe")


@pytest.mark.parametrize("case", ["deepseek-v2-groups", "deepseek-v3", "glm-4-moe"])
def test_two_of_four_groups_remain_eligible(case):
    inside = trace_routing(foreign_model(case), TOKENS).choice_scores.isfinite()
    groups = inside.unflatten(-1, (4, 2))
    assert groups.any(-1).sum(-1).eq(2).all() and inside.sum(-1).eq(4).all()


@pytest.mark.parametrize("training", [False, True])
@all_cases
def test_recording_changes_no_bit_and_leaves_nothing_behind(case, training):
    model = foreign_model(case).train(training)
    with torch.no_grad():
        before = model(TOKENS).logits
    trace = trace_routing(model, TOKENS)
    with torch.no_grad():
        after = model(TOKENS).logits
    assert torch.equal(trace.logits, before.flatten(0, 1)) and torch.equal(before, after)
    assert model.training == training and all(m.training == training for m in model.modules())
    assert n_hooks(model) == 0 and not trace.gates.requires_grad


def test_hooks_are_removed_even_after_an_exception():
    model = foreign_model("mixtral")

    def broken(*_):
        raise RuntimeError("halfway")

    handle = model.model.layers[1].mlp.experts.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="halfway"):
        trace_routing(model, TOKENS)
    handle.remove()
    assert n_hooks(model) == 0
    assert trace_routing(model, TOKENS).layers == (0, 1, 2)


def test_what_another_thread_runs_is_not_recorded():
    model = foreign_model("mixtral")
    with ThreadPoolExecutor(1) as other, recording(find_blocks(model)) as seen:
        other.submit(model, TOKENS).result()
        assert seen == {0: {}, 1: {}, 2: {}}
        model(TOKENS)
        assert all(layer["logits"].shape[0] == TOKENS.numel() for layer in seen.values())
        kept = {layer: dict(tensors) for layer, tensors in seen.items()}
        other.submit(model, TOKENS[:1]).result()
        assert seen == kept


def test_changes_made_by_a_users_hook_are_recorded():
    """A knock-out shows up, because the record holds what was passed to the experts."""
    model = foreign_model("olmoe")
    handle = model.model.layers[0].mlp.gate.register_forward_hook(
        lambda _, inputs, output: (output[0], output[1], torch.full_like(output[2], 5))
    )
    trace = trace_routing(model, TOKENS)
    handle.remove()
    assert trace.expert_ids[0].eq(5).all() and not trace.expert_ids[1].eq(5).all()


@pytest.mark.parametrize("seed", range(4))
def test_trace_of_a_deepseek_v3_equals_that_of_our_copy(tmp_path, seed):
    """With the same weights, transformers' class and ours choose the same experts and gates."""
    theirs = random_hf_model(seed)
    theirs.save_pretrained(tmp_path)
    ours = load_hf(tmp_path)
    expected, trace = trace_routing(ours, TOKENS), trace_routing(theirs, TOKENS)
    assert trace.layers == expected.layers and trace.score_function == expected.score_function
    assert torch.equal(trace.expert_ids, expected.expert_ids)
    assert relative_error(trace.gates, expected.gates) < 1e-5
    assert relative_error(trace.router_logits, expected.router_logits) < 1e-5
    assert torch.equal(trace.choice_scores.isfinite(), expected.choice_scores.isfinite())
    assert expected.config == ours.config and trace.config is None


def test_a_model_without_a_head_is_recorded_without_logits():
    model = foreign_model("qwen3-moe")
    trace = trace_routing(model.model, TOKENS)
    assert trace.logits is None and trace.predicted is None and trace.losses is None
    assert torch.equal(trace.gates, trace_routing(model, TOKENS).gates)


GLM_LITE = {"n_routed_experts": 8, "moe_intermediate_size": 16, "kv_lora_rank": 16}
GLM_LITE |= {"q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Glm4MoeLite", GLM_LITE), ("GraniteMoe", {"num_local_experts": 8})],
)
def test_an_unlisted_router_is_recorded_if_its_numbers_follow_a_known_rule(kind, changes):
    model = random_model(kind, **changes)
    assert type(next(iter(find_blocks(model).values()))[0]).__name__ not in SUPPORTED
    trace = trace_routing(model, TOKENS)
    best = trace.choice_scores.topk(trace.top_k, dim=-1)
    assert torch.equal(trace.expert_ids, best.indices)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Phimoe", {"num_local_experts": 8, "num_experts_per_tok": 2}),
        ("MiniMaxM2", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    ],
)
def test_an_unknown_router_is_refused_with_the_list_of_known_ones(kind, changes):
    model = random_model(kind, **changes)
    with pytest.raises(ValueError, match="DeepseekV3TopkRouter.*Qwen3MoeTopKRouter.*got"):
        trace_routing(model, TOKENS)
    assert n_hooks(model) == 0


def test_a_module_with_experts_that_is_not_a_language_model_is_refused():
    class Moe(nn.Module):
        pass

    with pytest.raises(ValueError, match="got Moe without a recognisable router"):
        trace_routing(Moe(), TOKENS)
    block = foreign_model("mixtral").model.layers[0].mlp
    with pytest.raises(ValueError, match="MixtralSparseMoeBlock, which is not a transformers"):
        trace_routing(block, TOKENS)


def test_a_dense_model_and_a_non_model_are_refused():
    with pytest.raises(ValueError, match="only dense layers"):
        trace_routing(random_model("Llama"), TOKENS)
    with without_shape_hook(), pytest.raises(ValueError, match="model: an nn.Module expected"):
        trace_routing("mixtral", TOKENS)


@pytest.mark.parametrize(
    ("ids", "named"), [([VOCAB], "vocab_size=97"), ([-1], "got -1"), ([0] * 65, "max_seq_len=64")]
)
def test_ids_that_do_not_fit_are_named(ids, named):
    with pytest.raises(ValueError, match=named):
        trace_routing(foreign_model("olmoe"), ids)


def test_our_own_models_need_no_transformers():
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from mini_moe import Transformer, presets, trace_routing\n"
        "print(trace_routing(Transformer(presets.tiny()), [1, 2, 3]).layers)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("(1, 2, 3)\n", 0), done.stderr
