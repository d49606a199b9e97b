"""Checkpoints that a killed run continues from as if nothing had happened."""

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

LOG = "log.jsonl"
KEPT = 2  # newest checkpoints that stay


class TrainingDiverged(ArithmeticError):
    """A loss, a gradient or a weight is no longer a finite number."""


@dataclasses.dataclass
class TrainingState:
    """All that a run needs to go on: the next step's inputs, and nothing else.

    Batches are a function of (seed, step) and the schedule of the step, so the step is their state.
    """

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    step: int  # steps done
    bf16: bool
    seconds: float  # spent training so far


def save_checkpoint(
    folder: Path, state: TrainingState, train_config: TrainConfig, corpus_id: str
) -> None:
    """Write `folder/step_N` whole or not at all, then drop all but the newest two.

    It is a checkpoint for `load_hf`, plus optimizer.safetensors and training.json.
    Raises: TrainingDiverged when a weight is not finite, OSError when the disk is full; earlier
    checkpoints stay in both cases.
    """
    for name, tensor in slots(state.model).items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"{name} is not finite after step {state.step}; not saved")
    target = folder / f"step_{state.step:06}"
    writing = folder / f".{target.name}.writing"
    for unfinished in folder.glob(".step_*.writing"):  # left by a process that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        save_hf(state.model, writing)
        about = {
            "step": state.step,
            "seconds": state.seconds,
            "bf16": state.bf16,
            "corpus": corpus_id,
            "model_config": dataclasses.asdict(state.model.config),
            "train_config": dataclasses.asdict(train_config),
        }
        tensors = _optimizer_tensors(state) | {"torch_random_state": torch.get_rng_state()}
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
    corpus_id: str,
    state: TrainingState,
) -> None:
    """Bring a fresh state to what `folder` holds, bit by bit.

    Raises: ValueError naming the first setting that differs from the interrupted run's, or the file
    that is not whole.
    """
    about = read_json(folder / "training.json")
    _check_same("model", model_config, about.get("model_config", {}))
    _check_same("training", train_config, about.get("train_config", {}))
    if about.get("corpus") != corpus_id:
        raise ValueError(f"{folder} was trained on another corpus than this; use another folder")
    state.model.load_state_dict(load_hf(folder).state_dict())
    state.step, state.seconds, state.bf16 = about["step"], about["seconds"], about["bf16"]
    try:
        tensors = load_file(folder / "optimizer.safetensors")
        torch.set_rng_state(tensors.pop("torch_random_state"))
        _restore_optimizers(state, tensors)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / 'optimizer.safetensors'} is not whole: {error}") from error


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a run's folder, oldest first."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run, or None where there is none."""
    found = checkpoints(Path(folder))
    return found[-1] if found else None


def cut_log(folder: Path, step: int) -> list[dict]:
    """Keep the log's whole lines up to a step: what a killed run wrote after it happens again.

    Raises: ValueError where the log belongs to a saved model rather than to a run.
    """
    path = folder / LOG
    if path.exists() and (folder / "config.json").exists() and not checkpoints(folder):
        raise ValueError(f"folder={str(folder)!r} holds a model and its log; use another folder")
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= step:
            kept.append(record)
    replace_files(folder, {LOG: "".join(json.dumps(record) + "\n" for record in kept)})
    return kept


def _names(state: TrainingState) -> dict[int, str]:
    return {id(p): name for name, p in state.model.named_parameters()}


def _optimizer_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    names = _names(state)
    return {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in state.optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _restore_optimizers(state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
    names = _names(state)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            if "bf16" in group:
                group["bf16"] = state.bf16
            for parameter in group["params"]:
                prefix = names[id(parameter)] + "/"
                values = {
                    k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
                }
                if not values:
                    raise KeyError(f"no state of {prefix}")
                optimizer.state[parameter] = values


def _check_same(kind: str, wanted: object, found: dict) -> None:
    for field in dataclasses.fields(wanted):
        ours, theirs = getattr(wanted, field.name), found.get(field.name)
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if ours != theirs:
            raise ValueError(
                f"{field.name}={ours} differs from the interrupted run's {theirs} ({kind} "
                "configuration); continue with the same, or use another folder"
            )
