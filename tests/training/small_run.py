"""Shared by the training tests: a small text, a small model, and a run of it."""

import random
from pathlib import Path

from mini_moe import ModelConfig, TrainConfig, train
from mini_moe.text import Corpus

WORDS = "the cat sat on a mat and saw two big red birds fly over the old house".split()


def sentences(n_words: int = 700, seed: int = 1) -> str:
    """Return words in random order: about 2,600 characters of 20 kinds."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(n_words)) + "\n"


def text_corpus(folder: Path, text: str | None = None) -> Corpus:
    """Make a character-level corpus from a text."""
    path = folder / "text.txt"
    path.write_text(sentences() if text is None else text)
    return Corpus.from_text(path)


MODEL = {
    "d_model": 16,
    "n_layers": 2,
    "n_dense_layers": 1,
    "d_ff": 24,
    "max_seq_len": 32,
    "n_heads": 2,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "top_k": 2,
    "d_expert": 8,
}
TRAINING = {"steps": 6, "batch_size": 4, "seq_len": 16, "warmup_steps": 2, "bf16": False}


def small_model_config(corpus: Corpus, **changes) -> ModelConfig:
    """One dense layer and one with four experts, for a corpus's vocabulary."""
    return ModelConfig(**{"vocab_size": corpus.tokenizer.vocab_size} | MODEL | changes)


def small_train_config(**changes) -> TrainConfig:
    """Six steps in float32."""
    return TrainConfig(**TRAINING | changes)


def small_train(corpus: Corpus, model_changes: dict | None = None, **options):
    """Run `train` with small configurations; keywords unknown to TrainConfig go to `train`."""
    names = ("folder", "device", "on_step", "should_stop", "progress")
    given = {"progress": False} | {k: v for k, v in options.items() if k in names}
    changes = {k: v for k, v in options.items() if k not in names}
    model_config = small_model_config(corpus, **(model_changes or {}))
    return train(model_config, small_train_config(**changes), corpus, **given)


def as_options(*configurations: dict) -> list[str]:
    """Turn configuration fields into command-line options."""
    return [str(part) for fields in configurations for k, v in fields.items() for part in
            (f"--{k}", v)]  # fmt: skip
