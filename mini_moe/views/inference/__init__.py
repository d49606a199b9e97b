"""Pictures of a model generating text: its cache, passes, choices and proposals."""

from mini_moe.views.inference.acceptance import acceptance_bars, tokens_curves
from mini_moe.views.inference.choices import SamplingLab, sampling_bars
from mini_moe.views.inference.memory import cache_growth
from mini_moe.views.inference.passes import crossover_curves, pass_curve
from mini_moe.views.inference.rounds import RoundStepper, coloured_rounds

__all__ = ["RoundStepper", "SamplingLab", "acceptance_bars", "cache_growth", "coloured_rounds"]
__all__ += ["crossover_curves", "pass_curve", "sampling_bars", "tokens_curves"]
