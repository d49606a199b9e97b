"""Time the expert layer on this machine's CPU, in each of the package's forms."""

import time

import torch

from mini_moe.ops import compiled, moe_experts, use
from mini_moe.ops.context import Form

SHAPE = (1024, 128, 64, 16, 4)  # tokens, d_model, d_expert, experts, top_k


def time_layer(rounds: int = 15) -> dict[str, list[float]]:
    """Time one forward pass on one thread, in seconds, alternating forms and dropping round one.

    Thread CPU time is measured, so that other work on the machine has little effect.
    "definition" computes every expert for every token; "sorted rows" is PyTorch; "compiled" is
    kernels/cpu/, if it is built.
    """
    tokens, d_model, d_expert, experts, top_k = SHAPE
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    ids = torch.rand(tokens, experts, generator=generator).topk(top_k).indices
    gates = torch.rand(tokens, top_k, generator=generator)
    weights = random(experts, 2, d_expert, d_model), random(experts, d_model, d_expert)
    arguments = random(tokens, d_model), ids, gates, *weights

    forms: dict[str, Form] = {"definition": "definition", "sorted rows": "pytorch"}
    if not compiled.WHY_NOT:
        forms["compiled"] = "compiled"
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(rounds + 1):
            for name, form in forms.items():
                start = time.thread_time()
                with use(form):
                    moe_experts(*arguments)
                if number:
                    seconds[name].append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return seconds
