"""Train one patient: the package's parts, assembled so that each of them can be replaced."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe import presets
from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.model import Routing, Transformer
from mini_moe.model.router import Router
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.routing.intervene import moe_layers
from mini_moe.teaching.clinic.diseases import Lesion
from mini_moe.teaching.clinic.sick_code import GAMMA
from mini_moe.text import Corpus, sample_batch
from mini_moe.training.losses import cross_entropy
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.step import optimizer_step

STEPS = 60  # enough to see every disease; about three seconds per patient


def model_config() -> ModelConfig:
    """Return the lab model at half its width, with one dense layer and one with experts."""
    small = {"d_model": 64, "d_ff": 128, "d_expert": 32, "n_layers": 2, "max_seq_len": 128}
    heads = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "v_head_dim": 8, "route_scale": 1.0}
    return dataclasses.replace(presets.lab(), **small, **heads)


def train_config(steps: int = STEPS, seed: int = 0) -> TrainConfig:
    """Return a config with both ways of balancing, as in DeepSeek-V3; a larger α acts sooner."""
    sizes = {"batch_size": 8, "seq_len": 64, "warmup_steps": steps // 6}
    balance = {"bias_update_rate": GAMMA, "bias_freeze_fraction": 0.0, "balance_loss_weight": 0.02}
    return TrainConfig(steps=steps, seed=seed, **sizes, **balance)


@dataclass(frozen=True, repr=False)
class Patient:
    """A trained model and its training log. What is wrong with it stays private."""

    letter: str
    model: Transformer
    losses: list[float]  # one per step, nats per token
    _lesion: Lesion
    _train_config: TrainConfig

    def copied(self, model: Transformer) -> "Patient":
        """Return the same patient with a copy of its model, which a measurement may modify."""
        return dataclasses.replace(self, model=model)

    @property
    def balance_loss(self) -> Callable[[Tensor, int, int], Tensor]:
        """The loss that training adds, times α: (scores, top_k, n_sequences) → one number."""
        return self._lesion.balance_loss

    def __repr__(self) -> str:
        return f"Patient {self.letter}: {len(self.losses)} steps, loss {self.losses[-1]:.2f}"


class SickRouter(Router):
    """A router that uses a given routing function, without the compiled gate."""

    def __init__(self, config: ModelConfig, route: Callable) -> None:
        super().__init__(config)
        self.route = route

    def forward(self, x: Float[Tensor, "tokens d_model"]) -> Routing:
        logits = F.linear(x.float(), self.weight)
        return self.route(logits, self.e_score_correction_bias, self.config)


def train_patient(
    letter: str, lesion: Lesion, corpus: Corpus, steps: int = STEPS, seed: int = 0
) -> Patient:
    """Train a model that has a lesion from scratch; every patient sees the same batches."""
    config = dataclasses.replace(train_config(steps, seed), **lesion.training)
    with OwnRandomNumbers(seed):  # also of the noise that one lesion adds in every step
        model = Transformer(dataclasses.replace(model_config(), **lesion.config))
        model.tokenizer = corpus.tokenizer
        operate(model, lesion)
        optimizers = build_optimizers(model, config, bf16=False)
        patient = Patient(letter, model, [], lesion, config)
        for step in range(steps):
            batch = sample_batch(corpus.train, batch=8, length=65, seed=seed, step=step)
            patient.losses.append(train_step(patient, batch.tokens, optimizers, step))
    model.eval()
    return patient


def operate(model: Transformer, lesion: Lesion) -> None:
    """Install routers that use the lesion's function, or the healthy `route`, uncompiled.

    The compiled gate rounds differently, and otherwise identical twins must match bit for bit.
    """
    for moe in moe_layers(model).values():
        sick = SickRouter(model.config, lesion.route)
        sick.load_state_dict(moe.gate.state_dict())
        moe.gate = sick


class PatientLosses(NamedTuple):
    """In nats per token."""

    total: Float[Tensor, ""]
    language: Float[Tensor, ""]


def train_step(
    patient: Patient,
    tokens: Int[Tensor, "batch length"],
    optimizers: list[torch.optim.Optimizer],
    step: int,
) -> float:
    """Take one training step on the patient's own losses; return the language loss."""
    config = patient._train_config

    def losses(routings: list[Routing]) -> PatientLosses:
        language, balance, found = both_losses(patient, tokens)
        routings += found
        return PatientLosses(language + config.balance_loss_weight * balance, language)

    return optimizer_step(patient.model, optimizers, config, step, losses).losses["language"]


def both_losses(
    patient: Patient, tokens: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], list[Routing]]:
    """Return the language loss, the balance loss and the routers' decisions."""
    model, routings = patient.model, []
    hidden = model.hidden(tokens[:, :-1], routings=routings)
    language = cross_entropy(model, hidden, tokens[:, 1:])
    balance = [patient.balance_loss(r.scores, model.config.top_k, len(tokens)) for r in routings]
    return language, torch.stack(balance).sum(), routings
