"""What the router did: recorded without changing it, and measured."""

from mini_moe.routing.metrics import (
    dead_experts,
    expert_load,
    load_entropy,
    max_violation,
    noise_floor,
)
from mini_moe.routing.trace import RoutingTrace, trace_routing

__all__ = ["RoutingTrace", "dead_experts", "expert_load", "load_entropy", "max_violation"]
__all__ += ["noise_floor", "trace_routing"]
