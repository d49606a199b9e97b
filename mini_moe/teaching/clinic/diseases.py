"""Ten diseases that don't stop a model from training: location, symptoms, known cases."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mini_moe.model.router import route
from mini_moe.teaching.clinic import sick_code
from mini_moe.training.losses import sequence_balance_loss


@dataclass(frozen=True)
class Sign:
    """What a disease shows in one row of one instrument."""

    instrument: str
    row: str
    expected: str  # in words
    shows: Callable[[int | float], bool]


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """The one place in which a patient is built differently; the default is healthy."""

    config: dict = field(default_factory=dict)  # fields of ModelConfig
    training: dict = field(default_factory=dict)  # fields of TrainConfig
    route: Callable = route
    balance_loss: Callable = sequence_balance_loss


@dataclass(frozen=True, kw_only=True)
class Disease:
    """A lesion with its name, its sign and its history."""

    name: str
    what: str  # what goes wrong, in two sentences
    lesion: Lesion
    signs: tuple[Sign, ...]  # shown together by no other patient
    threads: tuple[str, ...]  # known cases on GitHub
    pinned_by: str  # the test in this repository that would catch it
    beside: tuple[str, ...] = ()  # healthy lines needed to understand the case

    @property
    def is_setting(self) -> bool:
        """True for a wrong value in a configuration, False for a wrong line of code."""
        return self.lesion.route is route and self.lesion.balance_loss is sequence_balance_loss


DISEASES = (
    Disease(
        name="k=1 with renormalisation",
        what="One gate divided by itself is 1, whatever the router says. The choice has no "
        "gradient, and now the gate has none either: the router learns from the balance loss "
        "alone, whose aim is to treat all experts alike.",
        lesion=Lesion(config={"top_k": 1}),
        signs=(Sign("gradients", "of the language loss", "about 0", lambda norm: norm < 1e-6),),
        threads=("jingyaogong/minimind/issues/858", "jingyaogong/minimind/pull/859"),
        pinned_by="tests/model/test_router.py::"
        "test_one_renormalised_gate_gives_the_router_no_gradient",
        beside=("norm_topk_prob = True  # not changed: either alone is fine",),
    ),
    Disease(
        name="bias in the gate",
        what="The bias should only affect the choice. Here the gates are computed from the biased "
        "scores, so that keeping the experts busy changes what the model computes.",
        lesion=Lesion(route=sick_code.route_with_biased_gates),
        signs=(
            Sign(
                "bias",
                "gates move when every bias rises by 0.1",
                "above 0",
                lambda moved: moved > 1e-5,
            ),
        ),
        threads=(
            "huggingface/transformers/pull/41647",
            "vllm-project/vllm/pull/12002",
            "yiqiao-yin/deepspeed-course/pull/26",
        ),
        pinned_by="tests/model/test_router.py::test_bias_changes_choice_but_not_gates",
    ),
    Disease(
        name="softmax for sigmoid",
        what="DeepSeek-V2 scores with a softmax, V3 with sigmoids. With a softmax the "
        "scores sum to 1: a bias step sized for scores near 0.5 is huge for scores near 1/16.",
        lesion=Lesion(config={"score_function": "softmax"}),
        signs=(
            Sign(
                "scores", "largest sum over all experts", "1", lambda total: abs(total - 1) < 1e-3
            ),
        ),
        threads=("ml-explore/mlx-lm/issues/1883", "ml-explore/mlx-lm/pull/1354"),
        pinned_by="tests/test_presets.py::"
        "test_presets_like_v3_score_with_sigmoids_and_normalise_the_chosen",
    ),
    Disease(
        name="gates not normalised",
        what="The gates of a token do not sum to one. The experts' total weight then depends on "
        "how sure the router is, and weights from another implementation no longer fit.",
        lesion=Lesion(config={"norm_topk_prob": False}),
        signs=(Sign("gates", "largest sum of a token", "not 1", lambda s: abs(s - 1) > 1e-2),),
        threads=("pytorch/torchtitan/issues/1448", "pytorch/torchtitan/issues/1418"),
        pinned_by="tests/test_presets.py::"
        "test_presets_like_v3_score_with_sigmoids_and_normalise_the_chosen",
    ),
    Disease(
        name="double softmax in the balance loss",
        what="The loss applies a softmax to what are already scores. That flattens them: a "
        "collapsed router looks nearly even, and the loss hardly objects.",
        lesion=Lesion(balance_loss=sick_code.balance_loss_with_two_softmaxes),
        signs=(
            Sign("balance loss", "of an invented collapse", "below 4", lambda value: value < 4),
        ),
        threads=("huggingface/transformers/issues/45120", "huggingface/transformers/pull/45131"),
        pinned_by="tests/training/test_losses.py::"
        "test_balance_loss_is_the_number_of_experts_when_one_takes_all",
    ),
    Disease(
        name="P over the top k only",
        what="P must be the mean share of every expert, chosen or not. Computed over the "
        "chosen experts only, it pushes favourites down and never lifts an idle expert up.",
        lesion=Lesion(balance_loss=sick_code.balance_loss_of_the_chosen),
        signs=(
            Sign(
                "reach",
                "scores the balance loss pulls at, %",
                "that of the top k alone",
                lambda share: 0 < share < 50,
            ),
        ),
        threads=(
            "AI-Hypercomputer/maxtext/issues/1432",
            "AI-Hypercomputer/maxtext/pull/1433",
            "paiml/aprender/pull/2162",
        ),
        pinned_by="tests/training/test_losses.py::test_balance_loss_equals_three_loops",
    ),
    Disease(
        name="balance gradient dropped",
        what="The loss is computed, added and logged, but its path back to the router is cut. The "
        "number on the dashboard looks right and does nothing.",
        lesion=Lesion(balance_loss=sick_code.balance_loss_cut_off),
        signs=(Sign("gradients", "of the balance loss", "0", lambda norm: norm == 0),),
        threads=("NVIDIA-NeMo/Automodel/issues/1408", "NVIDIA-NeMo/Automodel/pull/1412"),
        pinned_by="tests/training/test_losses.py::test_balance_loss_pulls_router_and_lowers_itself",
    ),
    Disease(
        name="bias drifts in evaluation",
        what="The bias is updated inside the routing function, which doesn't know whether the "
        "model is training. Every text the model merely reads changes it. The update was moved, "
        "not duplicated: the trainer's own is off.",
        lesion=Lesion(route=sick_code.route_that_balances, training={"bias_update_rate": 0.0}),
        signs=(Sign("evaluation", "biases move by", "above 0", lambda moved: moved > 0),),
        threads=("casinca/LLM-quest/blob/main/llm_quest/moe/deepseek_moe.py",),
        pinned_by="tests/training/test_evaluation.py::"
        "test_evaluation_leaves_weights_biases_and_gradients_alone",
    ),
    Disease(
        name="noise in evaluation",
        what="Noise on the router's logits may help in training. Left on afterwards, it sends the "
        "same text to different experts each time, and every evaluation is a throw of the dice. "
        "The right code is `if training:`; the twin has no noise at all.",
        lesion=Lesion(route=sick_code.route_with_noise),
        signs=(
            Sign("evaluation", "logits of two runs differ by", "above 0", lambda d: d > 0),
            Sign("evaluation", "biases move by", "0", lambda moved: moved == 0),
        ),
        threads=(
            "AviSoori1x/makeMoE/blob/main/makeMoE.py",
            "deepspeedai/DeepSpeed/pull/8620",
            "hpcaitech/ColossalAI/pull/419",
        ),
        pinned_by="tests/routing/test_trace.py::test_tracing_changes_no_bit_of_the_result",
    ),
    Disease(
        name="router collapse",
        what="Nothing balances the load: no bias moves and the balance loss has no weight. The "
        "favourites learn fastest and are favoured even more.",
        lesion=Lesion(training={"bias_update_rate": 0.0, "balance_loss_weight": 0.0}),
        signs=(Sign("bias", "largest bias", "0", lambda size: size == 0),),
        threads=("pytorch/torchtitan/issues/1246",),
        pinned_by="tests/training/test_balance.py::test_bias_updates_even_out_a_skewed_start",
    ),
)
NAMES = tuple(disease.name for disease in DISEASES)


def find(name: str) -> Disease:
    """Return the disease of that name."""
    return DISEASES[NAMES.index(name)]
