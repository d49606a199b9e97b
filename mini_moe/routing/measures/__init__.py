"""What experts do: each measure documents its chance level and its noise."""

from mini_moe.routing.measures.choices import (  # noqa: I001
    choice_margin, chosen_by, gate_entropy, saturation,
)  # fmt: skip
from mini_moe.routing.measures.effects import Effects, knock_out_effects
from mini_moe.routing.measures.prediction import predictability
from mini_moe.routing.measures.specialisation import (
    LabelCounts, count_labels, domain_specialisation, vocabulary_specialisation,
)  # fmt: skip
from mini_moe.routing.measures.structure import (
    coactivation, coactivation_chance, count_pairs, count_paths, path_chance, path_shares,
)  # fmt: skip

__all__ = [
    "Effects", "LabelCounts", "choice_margin", "chosen_by", "coactivation", "coactivation_chance",
    "count_labels", "count_pairs", "count_paths", "domain_specialisation", "gate_entropy",
    "knock_out_effects", "path_chance", "path_shares", "predictability", "saturation",
    "vocabulary_specialisation",
]  # fmt: skip
