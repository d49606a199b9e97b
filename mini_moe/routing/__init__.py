"""What the router did: recorded without changing it, and measured."""

from mini_moe.routing.intervene import intervene
from mini_moe.routing.metrics import (
    dead_experts,
    dead_share,
    expert_load,
    load_entropy,
    load_variation,
    max_violation,
    noise_floor,
    relative_load,
)
from mini_moe.routing.trace import RoutingTrace, trace_routing

__all__ = ["RoutingTrace", "dead_experts", "dead_share", "expert_load", "intervene"]
__all__ += ["load_entropy", "load_variation", "max_violation", "noise_floor", "relative_load"]
__all__ += ["trace_routing"]
