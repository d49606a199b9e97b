"""Checkpoints from which a killed run continues as if nothing had happened."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.files import replace_files, sync_folder
from mini_moe.huggingface import load_hf, read_json, save_hf, slots
from mini_moe.model import Transformer
from mini_moe.text import Corpus
from mini_moe.training.optimizer import Muon
from mini_moe.training.run import LOG

KEPT = 2  # number of newest checkpoints to keep


class TrainingDiverged(ArithmeticError):
    """A loss, a gradient or a weight is no longer a finite number."""


@dataclasses.dataclass
class TrainingState:
    """Everything a run needs to continue: the next step's inputs, and nothing else.

    Batches depend only on (seed, step) and the schedule only on the step, so the step number is
    all their state.
    """

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    step: int  # steps done
    bf16: bool
    seconds: float  # spent training so far


def save_checkpoint(
    folder: Path, state: TrainingState, train_config: TrainConfig, corpus: Corpus
) -> None:
    """Write `folder/step_N` in full or not at all, then delete all but the newest two.

    It can be loaded with `load_hf`, and also holds optimizer.safetensors and training.json.
    Raises: TrainingDiverged if a weight is not finite, OSError if the disk is full; earlier
    checkpoints are kept in both cases.
    """
    for name, tensor in slots(state.model).items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"{name} is not finite after step {state.step}; not saved")
    target = folder / f"step_{state.step:06}"
    writing = folder / f".{target.name}.writing"
    for unfinished in folder.glob(".step_*.writing"):  # left behind by a killed process
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        save_hf(state.model, writing)
        about = {
            "step": state.step,
            "seconds": state.seconds,
            "bf16": state.bf16,
            "corpus": corpus.fingerprint,
            "model_config": dataclasses.asdict(state.model.config),
            "train_config": dataclasses.asdict(train_config),
        }
        tensors = _optimizer_tensors(state)
        replace_files(writing, {"optimizer.safetensors": tensors, "training.json": about})
        shutil.rmtree(target, ignore_errors=True)
        writing.rename(target)
        sync_folder(folder)
    except OSError as error:
        stays = latest_checkpoint(folder)
        raise OSError(
            f"checkpoint of step {state.step} not written: {error}; "
            + (f"{stays} stays" if stays else "there is none before it")
        ) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def restore_checkpoint(
    folder: Path,
    model_config: ModelConfig,
    train_config: TrainConfig,
    corpus: Corpus,
    state: TrainingState,
) -> None:
    """Restore a fresh state, on any device, from the checkpoint in `folder`, bit for bit.

    Raises: ValueError naming the first setting that differs from the interrupted run's, or the
    incomplete file.
    """
    about = read_json(folder / "training.json")
    _check_about(about, folder)
    _check_same("model", model_config, about["model_config"])
    _check_same("training", train_config, about["train_config"])
    if about.get("corpus") != corpus.fingerprint:
        raise ValueError(
            f"corpus: {folder} was trained on another corpus (other tokens or tokenizer), or by an "
            "earlier version of this package; continue with the same, or use another folder"
        )
    state.model.load_state_dict(load_hf(folder, mtp=True).state_dict())
    state.step, state.seconds, state.bf16 = about["step"], about["seconds"], about["bf16"]
    try:
        tensors = load_file(folder / "optimizer.safetensors")
        _restore_optimizers(state, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / 'optimizer.safetensors'} is not whole: {error}") from error


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a run's folder, oldest first."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return a run's newest checkpoint, or None if there is none."""
    found = checkpoints(Path(folder))
    return found[-1] if found else None


def cut_log(folder: Path, step: int) -> list[dict]:
    """Keep the log's complete lines up to a step: the steps after it will run again.

    If no line can be kept, the log is renamed to log.jsonl.old.

    Raises: ValueError if the log belongs to a saved model rather than to a run.
    """
    path = folder / LOG
    if path.exists() and (folder / "config.json").exists() and not checkpoints(folder):
        raise ValueError(f"folder={str(folder)!r} holds a model and its log; use another folder")
    kept = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            happens_again = record["step"] > step
        except (ValueError, KeyError, TypeError):
            break
        if not happens_again:
            kept.append(record)
    if path.exists() and path.stat().st_size and not kept:
        path.replace(path.with_name(LOG + ".old"))  # from a run whose checkpoints are gone
    replace_files(folder, {LOG: "".join(json.dumps(record) + "\n" for record in kept)})
    return kept


def _names(state: TrainingState) -> dict[int, str]:
    return {id(p): name for name, p in state.model.named_parameters()}


def _optimizer_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    names = _names(state)
    return {
        f"{names[id(parameter)]}/{key}": value.cpu()
        for optimizer in state.optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _restore_optimizers(state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
    names = _names(state)
    for optimizer in state.optimizers:
        kept = ("momentum",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
        for group in optimizer.param_groups:
            if "bf16" in group:
                group["bf16"] = state.bf16
            for parameter in group["params"]:
                name = names[id(parameter)]
                values = {key: tensors.pop(f"{name}/{key}") for key in kept}
                for key, value in values.items():
                    shape = [] if key == "step" else list(parameter.shape)
                    if list(value.shape) != shape or not torch.isfinite(value).all():
                        raise ValueError(
                            f"{name}/{key}: finite {shape} expected, got {list(value.shape)}"
                        )
                optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in values.items()
                }
    if tensors:
        raise ValueError(f"unknown tensor {min(tensors)}")


def _check_about(about: dict, folder: Path) -> None:
    """Raise ValueError naming training.json unless it is what `save_checkpoint` writes."""
    expected = {
        "step": int,
        "seconds": (int, float),
        "bf16": bool,
        "model_config": dict,
        "train_config": dict,
    }
    for name, kind in expected.items():
        if not isinstance(about.get(name), kind):
            raise ValueError(f"{folder / 'training.json'} is not whole: {name}={about.get(name)!r}")
    if folder.name != f"step_{about['step']:06}":
        raise ValueError(
            f"{folder / 'training.json'} is from step {about['step']}, not from its folder's"
        )


def _check_same(kind: str, wanted: object, found: dict) -> None:
    for field in dataclasses.fields(wanted):
        ours, theirs = getattr(wanted, field.name), found.get(field.name)
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if ours != theirs:
            raise ValueError(
                f"{field.name}={ours} differs from the interrupted run's {theirs} ({kind} "
                "configuration); continue with the same, or use another folder"
            )
