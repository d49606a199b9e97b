"""Random choices and labels for the tests of the measures."""

import torch


def random_choices(layers=2, tokens=40, top_k=3, n_experts=6, seed=0):
    """Draw expert_ids [layers, tokens, top_k] uniformly, without repeats within a token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(layers, tokens, n_experts, generator=generator).argsort(-1)[..., :top_k]


def random_labels(tokens=40, n_labels=4, seed=1):
    return torch.randint(0, n_labels, (tokens,), generator=torch.Generator().manual_seed(seed))
