"""Loss against wall clock on a text you supply, compared with nanoGPT's CPU configuration.

    python -m tests.benchmarks.run tinyshakespeare --text FILE [--nanogpt FOLDER]

Characters; the first 90 % are for training, the rest for validation. nanoGPT (a checkout of
karpathy/nanoGPT) runs its README's CPU configuration in its own process. So do our mixture of
experts and our dense model, each for as many steps as fit into the time that nanoGPT's process
took, and once more in a fifth of it, with a schedule for that length.
Our loss covers the whole held-out text; nanoGPT's is the one it prints. Without nanoGPT, --seconds
sets the time.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import ROOT, report

NANOGPT = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
    "--log_interval=500 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters=2000 --lr_decay_iters=2000 --eval_interval=2000 --dropout=0.0"
)
SHARED = {
    "d_model": 128,
    "n_layers": 3,
    "n_heads": 4,
    "kv_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "d_ff": 384,
    "route_scale": 1.0,
    "batch_size": 16,
    "seq_len": 128,
    "adamw_learning_rate": 0.01,
    "weight_decay": 0.1,
    "eval_tokens": 0,
    "log_every": 50,
}
OURS = {
    "mini_moe mixture of experts": SHARED
    | {"n_dense_layers": 1, "n_routed_experts": 8, "top_k": 2, "d_expert": 128},
    "mini_moe dense, equal active width": SHARED | {"n_dense_layers": 3},
}
START_UP = 3.0  # seconds of our process that are not steps: imports, text, evaluations


def main(text: Path, nanogpt: Path | None = None, seconds: float = 100.0) -> None:
    """Measure, print, write results/tinyshakespeare.json."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        if nanogpt is not None:
            seconds, loss = run_nanogpt(nanogpt, text, Path(scratch))
            rows.append({"peer": "nanoGPT, CPU configuration", "seconds": seconds, "loss": loss})
        curves = {}
        for name, settings in OURS.items():
            folder = Path(scratch) / name.replace(" ", "_")
            rate = steps_per_second(text, settings, folder / "rate")
            steps = int((seconds - START_UP) * rate)
            taken, log = run_ours(text, settings, steps, steps // 6 + 1, folder / "run")
            curves[name] = [
                {"seconds": r["seconds"], "loss": r["validation"]["all"]}
                for r in log
                if "validation" in r
            ]
            rows.append(
                {"peer": name, "seconds": taken, "loss": curves[name][-1]["loss"], "steps": steps}
            )
            steps = int((seconds / 5 - START_UP) * rate)
            taken, log = run_ours(text, settings, steps, steps, folder / "short")
            loss = log[-1]["validation"]["all"]
            rows.append(
                {"peer": f"{name}, a fifth", "seconds": taken, "loss": loss, "steps": steps}
            )
    command = "python -m tests.benchmarks.run tinyshakespeare --text FILE --nanogpt FOLDER"
    report("tinyshakespeare", command, rows, curves=curves, settings=OURS)


def run_nanogpt(folder: Path, text: Path, scratch: Path) -> tuple[float, float]:
    """Return the seconds of nanoGPT's process and the last validation loss it prints."""
    data = folder / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    command = [sys.executable, "train.py", *NANOGPT.split(), f"--out_dir={scratch / 'nanogpt'}"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    losses = re.findall(r"val loss ([\d.]+)", done.stdout)
    return time.perf_counter() - start, float(losses[-1])


def steps_per_second(text: Path, settings: dict, folder: Path) -> float:
    """Measure the speed of the steps after the first twenty, in a short run that is discarded."""
    quick = settings | {"log_every": 20, "eval_tokens": 1000}
    _, log = run_ours(text, quick, 80, 1000, folder)
    first = next(record for record in log if record["step"] == 20)
    return 60 / (log[-1]["seconds"] - first["seconds"])


def run_ours(
    text: Path, settings: dict, steps: int, eval_every: int, folder: Path
) -> tuple[float, list[dict]]:
    """Return the seconds of the whole process, and its log."""
    chosen = settings | {"steps": steps, "eval_every": eval_every, "checkpoint_every": 0}
    options = [f"--{name}={value}" for name, value in chosen.items()]
    command = [sys.executable, "-m", "mini_moe.training", "--text", str(text.resolve())]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--save", str(folder), *options],
        cwd=ROOT,
        env=os.environ | {"TQDM_DISABLE": "1"},
        check=True,
        capture_output=True,
    )
    taken = time.perf_counter() - start
    return taken, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
