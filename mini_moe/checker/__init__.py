"""Run CUDA kernels on the CPU under a checker: `run_cuda` for source text, `build` for files."""

from mini_moe.checker.compiling import KERNELS, build, require_compiler, why_not
from mini_moe.checker.files import run_file
from mini_moe.checker.library import DTYPES, Checked
from mini_moe.checker.recordings import Run
from mini_moe.checker.reports import (
    CheckerError,
    CompileError,
    LaneAccess,
    NoCompiler,
    Report,
    Traffic,
)
from mini_moe.checker.source import compile_cuda, output, run_cuda, signature

__all__ = ["DTYPES", "KERNELS", "Checked", "CheckerError", "CompileError", "LaneAccess"]
__all__ += ["NoCompiler", "Report", "Run", "Traffic", "build", "compile_cuda", "output"]
__all__ += ["require_compiler", "run_cuda", "run_file", "signature", "why_not"]
