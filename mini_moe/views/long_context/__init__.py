"""Pictures of a growing context: angles, stretched frequencies, needles, attention."""

from mini_moe.views.long_context.attention import attention_lines, last_attention, needle_span
from mini_moe.views.long_context.dials import angle_dials
from mini_moe.views.long_context.grids import needle_grids
from mini_moe.views.long_context.haystack import haystack
from mini_moe.views.long_context.positions import loss_by_position
from mini_moe.views.long_context.stretch import StretchLab, stretch_figure

__all__ = ["StretchLab", "angle_dials", "attention_lines", "haystack", "last_attention"]
__all__ += ["loss_by_position", "needle_grids", "needle_span", "stretch_figure"]
