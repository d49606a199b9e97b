"""The room moved to mini_moe/checker/; this name stays for tests that still import it."""

from mini_moe.checker import DTYPES, KERNELS, Checked, CheckerError, Report, Traffic, build

__all__ = ["DTYPES", "KERNELS", "Checked", "CheckerError", "Report", "Traffic", "build"]
