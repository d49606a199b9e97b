"""Time a step: which part of the model was running when, and a trace to look at."""

from mini_moe.profiling.timing.result import StepProfile
from mini_moe.profiling.timing.segments import Segment
from mini_moe.profiling.timing.steps import (
    profile_call,
    profile_inference,
    profile_step,
    time_steps,
)  # fmt: skip
from mini_moe.profiling.timing.trace import read_trace

__all__ = ["Segment", "StepProfile", "profile_call", "profile_inference", "profile_step"]
__all__ += ["read_trace", "time_steps"]
