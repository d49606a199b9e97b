"""What surrounds the training steps: the run's folder, its progress bar, and Ctrl-C."""

from mini_moe.training.run.folder import LOG, only_writer, open_log
from mini_moe.training.run.watching import interrupt_flag, progress_bar

__all__ = ["LOG", "interrupt_flag", "only_writer", "open_log", "progress_bar"]
