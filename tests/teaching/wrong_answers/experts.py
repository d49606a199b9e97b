"""Wrong answers to the exercises of 03_experts."""

import torch
import torch.nn.functional as F

from mini_moe.ops.reference import moe_experts
from mini_moe.ops.sorting import sort_rows


def counts_of(ids, n):
    """Count as a correct answer does."""
    return torch.bincount(ids.flatten(), minlength=n)


def with_activation(activation):
    """Return a mixture that uses another activation."""

    def mix(x, expert_ids, gates, gate_up_proj, down_proj):
        mixed = torch.zeros_like(x)
        for token, ids in enumerate(expert_ids.tolist()):
            for choice, e in enumerate(ids):
                hidden = activation(gate_up_proj[e, 0] @ x[token]) * (gate_up_proj[e, 1] @ x[token])
                mixed[token] += gates[token, choice] * (down_proj[e] @ hidden)
        return mixed

    return mix


def renamed(sorted_rows, **changes):
    """Return the correct answer with some fields replaced."""
    return tuple(sorted_rows._replace(**changes))


WRONG = {
    "expert_blocks": {
        "forgets idle experts at the end": (
            lambda ids, n: (
                torch.bincount(ids.flatten()),
                F.pad(torch.bincount(ids.flatten()).cumsum(0), (1, 0)),
            ),
            "six experts",
        ),
        "no zero in front": (
            lambda ids, n: (counts_of(ids, n), counts_of(ids, n).cumsum(0)),
            "from 0 to the end",
        ),
        "counts instead of a running sum": (
            lambda ids, n: (counts_of(ids, n), F.pad(counts_of(ids, n), (1, 0))),
            "all 8 rows",
        ),
        "counts first choices": (
            lambda ids, n: (counts_of(ids[:, :1], n), F.pad(counts_of(ids, n).cumsum(0), (1, 0))),
            "value 1",
        ),
    },
    "sort_rows": {
        "does not sort": (
            lambda ids, n: renamed(
                sort_rows(ids, n),
                token=torch.arange(ids.numel()) // ids.shape[1],
                place=torch.arange(ids.numel()).view(ids.shape),
            ),
            "`token` of your result at [1]",
        ),
        "place is the order": (
            lambda ids, n: renamed(
                sort_rows(ids, n), place=ids.flatten().argsort(stable=True).view(ids.shape)
            ),
            "place says where",
        ),
        "rows instead of tokens": (
            lambda ids, n: renamed(sort_rows(ids, n), token=ids.flatten().argsort(stable=True)),
            "place says where",
        ),
        "forgets the shape of place": (
            lambda ids, n: renamed(sort_rows(ids, n), place=sort_rows(ids, n).place.flatten()),
            "",
        ),
        "offsets without the zero": (
            lambda ids, n: renamed(sort_rows(ids, n), offsets=sort_rows(ids, n).offsets[1:]),
            "`offsets`",
        ),
    },
    "moe_experts": {
        "forgets the gates": (
            lambda x, ids, gates, up, down: moe_experts(x, ids, torch.ones_like(gates), up, down),
            "five tokens",
        ),
        "first choice only": (
            lambda x, ids, gates, up, down: moe_experts(x, ids[:, :1], gates[:, :1], up, down),
            "five tokens",
        ),
        "every token through every expert": (
            lambda x, ids, gates, up, down: moe_experts(
                x,
                torch.arange(len(up)).expand(len(x), -1),
                torch.ones(len(x), len(up)),
                up,
                down,
            ),
            "five tokens",
        ),
        "gate and up swapped": (
            lambda x, ids, gates, up, down: moe_experts(x, ids, gates, up.flip(1), down),
            "gate 1",
        ),
        "relu for silu": (with_activation(torch.relu), "gate 1"),
        "sigmoid for silu": (with_activation(torch.sigmoid), "gate 1"),
        "adds x": (
            lambda x, ids, gates, up, down: x + moe_experts(x, ids, gates, up, down),
            "gate 1",
        ),
    },
    "gather_sum": {
        "forgets the gates": (
            lambda values, place, w: values[place].sum(dim=1),
            "gates are missing",
        ),
        "gates the other way round": (
            lambda values, place, w: (values[place] * w.flip(1)[..., None]).sum(dim=1),
            "went to the other row",
        ),
        "a mean": (
            lambda values, place, w: (values[place] * w[..., None]).mean(dim=1),
            "that is a mean",
        ),
        "a plain mean": (lambda values, place, w: values[place].mean(dim=1), "plain mean"),
        "first choice only": (
            lambda values, place, w: values[place[:, 0]] * w[:, :1],
            "your result is 50",
        ),
        "does not add": (lambda values, place, w: values[place] * w[..., None], "shape [1, 2, 1]"),
        "rows in their order": (
            lambda values, place, w: (
                values[: place.numel()].view(*place.shape, -1) * w[..., None]
            ).sum(dim=1),
            "went to the other row",
        ),
        "divides by the gates' sum": (
            lambda values, place, w: (
                (values[place] * w[..., None]).sum(dim=1) / w.sum(dim=1, keepdim=True)
            ),
            "four tokens",
        ),
    },
    "layer_parameters": {
        "one expert": (44_040_192, "how many work"),
        "without the shared one": (352_321_536, "shared expert"),
        "two matrices": (264_241_152, "three"),
        "all experts": (11_318_329_344, "rest"),
        "another number": (400_000_000, "too high"),
    },
}
