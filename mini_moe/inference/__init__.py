"""Let a trained model write."""

from mini_moe.inference.cache import KeyValueCache
from mini_moe.inference.generate import generate, sample_token

__all__ = ["KeyValueCache", "generate", "sample_token"]
