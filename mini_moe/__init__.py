"""Mini-MoE: a DeepSeek-V3-style mixture-of-experts transformer to build, train and inspect."""

from mini_moe import presets
from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.huggingface import load_hf, save_hf
from mini_moe.inference import generate
from mini_moe.model import Transformer
from mini_moe.routing import trace_routing
from mini_moe.training import train

__all__ = ["ModelConfig", "TrainConfig", "Transformer", "generate", "load_hf", "presets"]
__all__ += ["save_hf", "trace_routing", "train"]
