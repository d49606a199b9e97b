"""Record what the router does, without changing it, and measure it."""

from mini_moe.routing.intervene import intervene  # noqa: I001
from mini_moe.routing.metrics import (
    dead_experts, dead_share, expert_load, load_entropy, load_variation, max_violation,
    noise_floor, relative_load,
)  # fmt: skip
from mini_moe.routing.trace import RoutingTrace, stream_routing, trace_routing

__all__ = [
    "RoutingTrace", "dead_experts", "dead_share", "expert_load", "intervene", "load_entropy",
    "load_variation", "max_violation", "noise_floor", "relative_load", "stream_routing",
    "trace_routing",
]  # fmt: skip
