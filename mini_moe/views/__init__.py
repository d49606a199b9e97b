"""Everything that draws: figures, the routing explorer, the training dashboard."""

from mini_moe.views.comparisons import cache_bars, compare_curves, log_curves, timing_bars
from mini_moe.views.explorer import explore_routing, next_tokens
from mini_moe.views.live.dashboard import train_live
from mini_moe.views.routing import load_bars, routing_heatmap
from mini_moe.views.sentence import coloured_sentence
from mini_moe.views.shapes import matrix_heatmap, parameter_bars, parameter_treemap, rope_circles
from mini_moe.views.stepper import RoutingStepper, routing_steps, step_routing, token_steps
from mini_moe.views.style import show, table

__all__ = ["RoutingStepper", "cache_bars", "coloured_sentence", "compare_curves", "explore_routing"]
__all__ += ["load_bars", "log_curves", "matrix_heatmap", "next_tokens", "parameter_bars"]
__all__ += ["parameter_treemap", "rope_circles", "routing_heatmap", "routing_steps", "show"]
__all__ += ["step_routing", "table", "timing_bars", "token_steps", "train_live"]
