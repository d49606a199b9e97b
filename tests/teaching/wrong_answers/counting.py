"""Wrong answers to the exercises of 13_profile that count."""

WRONG = {
    "attention_megaflops": {
        "multiply-adds": (34.4, "the addition counts"),
        "multiply-adds twice": (137.5, "already a multiplication and an addition"),
        "pairs without additions": (58.24, "a pair's numbers, too"),
        "projections only": (47.7, "queries, keys and values are multiplied, too"),
        "pairs only": (21.05, "four matrices come before and after"),
        "the whole square": (89.65, "only what lies before it"),
        "training": (206.3, "forward and backward"),
        "one head": (52.97, "there are four"),
        "not in millions": (68_763_648, "in millions"),
        "a wild guess": (12, "too low"),
    },
    "training_terabytes": {
        "weights only": (2.68, "the weights alone"),
        "no optimizer": (5.37, "two numbers a weight"),
        "one moment": (8.05, "three numbers a weight"),
        "active parameters": (0.6, "every other expert"),
        "gigabytes": (10_736, "gigabytes"),
        "tebibytes": (9.765, "2⁴⁰"),
    },
    "absorbed_intensity": {
        "per number": (483.6, "two bytes"),
        "multiply-adds": (120.9, "the addition counts"),
        "one head": (1.89, "all 128 read the same"),
        "scores only": (128, "the latents, too"),
        "no rotated key": (227.6, "the rotated key's 64"),
        "rebuilt heads": (71.1, "works on the latent itself"),
        "multi-head": (1, "multi-head attention"),
    },
    "experts_decode_batch": {
        "a dense layer": (295, "a dense layer"),
        "one expert a token": (75_577, "8 experts, not one"),
        "times eight": (2362, "32 times as many"),
        "the wrong way round": (9.2, "fewer tokens"),
        "one byte": (4723, "both are two"),
        "four bytes": (18_895, "two FLOPs and two bytes"),
    },
}
