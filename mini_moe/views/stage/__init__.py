"""The instructor's stage: linked views of one text, one token, one layer and one expert."""

from mini_moe.views.stage.stage import Stage, open_stage
from mini_moe.views.stage.state import Changes, effect, strongest_switches

__all__ = ["Changes", "Stage", "effect", "open_stage", "strongest_switches"]
