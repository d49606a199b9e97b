"""Pictures of what experts do: every figure shows its chance level or its noise."""

from mini_moe.views.experts.dots import (  # noqa: I001
    cause_scatter, overlap_dots, saturation_curves,
)  # fmt: skip
from mini_moe.views.experts.heatmaps import (
    coactivation_heatmap,
    knock_out_heatmap,
    specialisation_heatmap,
)  # fmt: skip
from mini_moe.views.experts.paths import path_lines
from mini_moe.views.experts.words import word_map

__all__ = [
    "cause_scatter", "coactivation_heatmap", "knock_out_heatmap", "overlap_dots", "path_lines",
    "saturation_curves", "specialisation_heatmap", "word_map",
]  # fmt: skip
