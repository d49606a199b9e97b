"""Exercises of 13_profile that need a pencil: FLOPs of a layer, memory of a step, FLOPs a byte."""

from mini_moe import presets
from mini_moe.profiling import count
from mini_moe.teaching.exercise import Mistake, value_exercise

TINY = count(presets.tiny(), seq=256)
V3_PARAMETERS = count(presets.deepseek_v3(), seq=1).total.parameters
RIDGE = 989 / 3.35  # FLOPs a byte that an H100 SXM can do meanwhile, by NVIDIA's data sheet

attention = value_exercise(
    "attention_megaflops",
    TINY.under("layers.0.self_attn").flops_forward / 1e6,
    tolerance=0.1,
    explanation="The four projections have 192·192 + 192·80 + 64·256 + 128·192 = 93,184 weights: "
    "2 · 256 · 93,184 = 47.7 million FLOPs. Four heads multiply 256 · 257 / 2 = 32,896 pairs of "
    "query and key, 48 numbers for the score and 32 for the value: 2 · 4 · 32,896 · 80 = 21.1 "
    'million. `count(presets.tiny(), seq=256).under("layers.0.self_attn")` knows both.',
    difficulty=3,
    importance=4,
    minutes=8,
    hints=(
        "Two parts: matrices that every token passes (2 FLOPs a weight), and pairs of tokens.",
        "The matrices are 192 → 4 · 48, 192 → 64 + 16, 64 → 4 · (32 + 32) and 4 · 32 → 192.",
        "A query sees itself and what lies before: 256 · 257 / 2 pairs a head, 2 · (48 + 32) each.",
    ),
)


@attention.probe()
def _(value):
    layer = "layers.0.self_attn"
    whole = TINY.under(layer).flops_forward / 1e6
    core = TINY["attention core"].flops_forward / presets.tiny().n_layers / 1e6
    square = count(presets.tiny(), seq=256, pairs="square").under(layer).flops_forward / 1e6
    slips = {
        whole / 2: "that is one FLOP for each multiplication; the addition counts as well",
        whole - core: "these are the projections; queries, keys and values are multiplied, too",
        core: "these are only the pairs of queries and keys; four matrices come before and after",
        2 * whole: "twice too much; 2 FLOPs a weight are already a multiplication and an addition",
        whole - core / 2: "a pair's numbers, too, take an addition for each multiplication",
        square: "all 256 · 256 pairs are counted; a query sees only what lies before it",
        3 * whole: "that is training, forward and backward; the forward pass is asked for",
        whole * 1e6: "these are FLOPs; in millions, please",
        whole - core + core / 4: "the pairs of one head; there are four",
    }
    for slip, words in slips.items():
        if abs(value - slip) < 0.002 * slip:
            raise Mistake(f"{value:,.4g}: {words}")


training = value_exercise(
    "training_terabytes",
    16 * V3_PARAMETERS / 1e12,
    tolerance=0.05,
    explanation="Weight, gradient and AdamW's two moments are four numbers of 4 bytes: 16 bytes "
    "for each of 671 billion parameters are 10.7 TB. An H100 has 0.08 TB, so 134 of them hold it, "
    "and not one activation yet. A token meets 5.6 % of the parameters; memory holds them all.",
    difficulty=2,
    importance=5,
    minutes=4,
    hints=(
        "How many numbers does training keep for each weight? The weight itself is the first.",
        "Its gradient, and AdamW's mean of gradients and mean of squares: four in all.",
        "4 numbers · 4 bytes · 671 billion, in units of 10¹² bytes.",
    ),
)


@training.probe()
def _(value):
    tera = V3_PARAMETERS / 1e12
    slips = {
        4 * tera: "the weights alone; gradients and AdamW's moments need as much each",
        8 * tera: "two numbers a weight; there are four: weight, gradient, two moments",
        12 * tera: "three numbers a weight; there are four: weight, gradient, two moments",
        16 * 0.037552: "the active parameters only; every other expert must be there as well",
        16 * tera * 1000: "these are gigabytes",
        16 * tera / 1.0995: "these are tebibytes, 2⁴⁰ bytes; take 10¹²",
    }
    for slip, words in slips.items():
        if abs(value - slip) < 0.01 * slip:
            raise Mistake(f"{value:,.4g}: {words}")


intensity = value_exercise(
    "absorbed_intensity",
    2 * 128 * (576 + 512) / (2 * 576),
    tolerance=1,
    explanation="All 128 heads read the same 576 numbers of a cached token: 2 · 576 FLOPs for the "
    "score and 2 · 512 for the weighted latent, 128 times, over 1,152 bytes: 242 FLOPs a byte. "
    "Multi-head attention reads keys and values of its own for each head and does one FLOP a byte. "
    "An H100 does 295 FLOPs while it reads one byte, so MLA nearly keeps it busy.",
    difficulty=4,
    importance=4,
    minutes=8,
    hints=(
        "One cached token, one layer: how many bytes are read, and by how many heads?",
        "512 + 64 numbers of 2 bytes are read once; every head multiplies all of them.",
        "FLOPs: 128 heads · 2 · (576 for the score + 512 for the mix). Divide by 1,152 bytes.",
    ),
)


@intensity.probe()
def _(value):
    slips = {
        2 * 128 * 1088 / 576: "that is FLOPs a number; a number of bfloat16 is two bytes",
        128 * 1088 / 1152: "one FLOP for each multiplication; the addition counts as well",
        2 * 1088 / 1152: "one head; all 128 read the same bytes",
        2 * 128 * 576 / 1152: "the scores alone; their weights multiply the latents, too",
        2 * 128 * 1024 / 1152: "the rotated key's 64 numbers are part of the score as well",
        2 * 128 * 320 / 1152: (
            "192 and 128 numbers a head are those of rebuilt keys and values; absorbed, a head "
            "works on the latent itself"
        ),
        1.0: "that is multi-head attention; with MLA all heads share what is read",
    }
    for slip, words in slips.items():
        if abs(value - slip) < 0.01 * slip:
            raise Mistake(f"{value:,.4g}: {words}")


batch = value_exercise(
    "experts_decode_batch",
    RIDGE * 32,
    tolerance=60,
    explanation="An expert's weight of 2 bytes does 2 FLOPs for each token that meets it: as many "
    "FLOPs a byte as tokens. 989 / 3.35 = 295 tokens an expert are needed. Of 256 experts a token "
    "meets 8, so 32 times as many must be in flight: about 9,450. The dense layers need 295.",
    difficulty=4,
    importance=4,
    minutes=8,
    hints=(
        "How many FLOPs does one weight do for one token, and how many bytes is it?",
        "FLOPs a byte = tokens that meet the expert. How many does the H100 do in a byte's time?",
        "(989 / 3.35) tokens an expert, and one expert meets 8 of 256 tokens.",
    ),
)


@batch.probe()
def _(value):
    slips = {
        RIDGE: "that is enough for a dense layer; an expert sees 8 of 256 tokens",
        RIDGE * 256: "a token meets 8 experts, not one",
        RIDGE
        * 8: "multiplied by 8; an expert sees 8 of 256 tokens, so 32 times as many are needed",
        RIDGE / 32: "fewer tokens for more experts? Each token meets only 8 of 256",
        RIDGE * 16: "one FLOP a weight, or one byte; both are two",
        RIDGE * 64: "one FLOP a weight, or four bytes; it is two FLOPs and two bytes",
    }
    for slip, words in slips.items():
        if abs(value - slip) < 0.01 * slip:
            raise Mistake(f"{value:,.4g}: {words}")
