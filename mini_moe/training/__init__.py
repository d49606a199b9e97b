"""Train a model: losses, optimizer, balance, checkpoints, and the loop that joins them."""

from mini_moe.training.checkpoint import TrainingState, latest_checkpoint
from mini_moe.training.loop import TrainingDiverged, TrainRun, train

__all__ = ["TrainRun", "TrainingDiverged", "TrainingState", "latest_checkpoint", "train"]
