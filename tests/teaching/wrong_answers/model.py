"""Wrong answers to the exercises of 05_model."""

import torch
import torch.nn.functional as F

WRONG = {
    "rms_norm": {
        "forgets the root": (
            lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True) + eps),
            "one vector",
        ),
        "the sum instead of the mean": (
            lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps),
            "one vector",
        ),
        "a layer norm": (lambda x, w, eps: F.layer_norm(x, x.shape[-1:], w, eps=eps), "one vector"),
        "the mean over all rows": (
            lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).mean() + eps),
            "two rows",
        ),
        "forgets the weight": (
            lambda x, w, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps),
            "two rows",
        ),
        "forgets eps": (
            lambda x, w, eps: w * x / x.pow(2).mean(-1, keepdim=True).sqrt(),
            "row of zeros",
        ),
        "eps outside the root": (
            lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps),
            "tiny row",
        ),
        "calls what does not exist": (lambda x, w, eps: x.rsm_norm(), "raised AttributeError"),
    },
}
