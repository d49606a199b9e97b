"""Pictures of kernels: what a warp touches, who waits, which lane holds what, the ladder."""

from mini_moe.views.kernels.addresses import touched
from mini_moe.views.kernels.ladder import climb, gpu_results, ladder_table, published_ladder
from mini_moe.views.kernels.schemes import barrier_picture, memory_picture, threads_picture
from mini_moe.views.kernels.scores import score
from mini_moe.views.kernels.tiles import bank_tiles, fragment_picture
from mini_moe.views.kernels.times import time_layer
from mini_moe.views.kernels.warp_stepper import WarpStepper

__all__ = ["WarpStepper", "bank_tiles", "barrier_picture", "climb", "fragment_picture"]
__all__ += ["gpu_results", "ladder_table", "memory_picture", "published_ladder", "score"]
__all__ += ["threads_picture", "time_layer", "touched"]
