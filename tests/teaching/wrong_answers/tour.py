"""Wrong answers to the exercises of 00_tour."""

import torch

WRONG = {
    "expert_load": {
        "counts instead of shares": (
            lambda ids, n: torch.bincount(ids.flatten(), minlength=n).float(),
            "shares sum to 8",
        ),
        "divides by tokens only": (
            lambda ids, n: torch.bincount(ids.flatten(), minlength=n) / len(ids),
            "shares sum to 2",
        ),
        "forgets idle experts at the end": (
            lambda ids, n: torch.bincount(ids.flatten()) / ids.numel(),
            "7",
        ),
        "first choices only": (
            lambda ids, n: torch.bincount(ids[:, 0], minlength=n) / len(ids),
            "at [0] is 1; 0.5 expected",
        ),
        "an even load whatever was chosen": (
            lambda ids, n: torch.full((n,), 1 / n),
            "at [0]",
        ),
    },
    "max_violation": {
        "the maximum itself": (lambda load: load.max(), "0.25; 0 expected"),
        "the ratio without − 1": (lambda load: load.max() / load.mean(), "1; 0 expected"),
        "compares with the minimum": (
            lambda load: (load.max() - load.min()) / load.mean(),
            "half of everything",
        ),
        "not relative to the mean": (lambda load: load.max() - load.mean(), "half of everything"),
        "the mean of the busy experts": (
            lambda load: load.max() / load[load > 0].mean() - 1,
            "an idle expert",
        ),
        "assumes shares": (lambda load: load.max() * len(load) - 1, "counts"),
    },
    "noise_floor": {
        "forgets the logarithm": (lambda n, m: (2 * n / m) ** 0.5, "16 experts"),
        "base ten": (lambda n, m: float((2 * torch.tensor(n).log10() / m) ** 0.5), "16 experts"),
        "forgets the root": (lambda n, m: 2 * float(torch.tensor(n).log()) / m, "16 experts"),
        "one deviation, not the largest": (lambda n, m: m**-0.5, "16 experts"),
    },
    "active_percent": {
        "a fraction": (0.056, "5.6"),
        "the part that rests": (94.4, "rests"),
        "experts instead of parameters": (100 * 9 / 257, "too low"),
        "no number": ("5.6 %", "a number expected"),
    },
    "memory_gigabytes": {
        "only the active ones": (37.5, "the next token chooses other experts"),
        "two bytes": (1342, "two bytes"),
        "bits": (84, "too low"),
        "terabytes": (0.671, "too low"),
    },
}
