"""Generate text with a trained model."""

from mini_moe.inference.cache import KeyValueCache, LatentCache
from mini_moe.inference.engine import Decoder
from mini_moe.inference.generate import complete, generate, stream
from mini_moe.inference.sampling import Sampling, sample_token
from mini_moe.inference.speculative import speculate

__all__ = ["Decoder", "KeyValueCache", "LatentCache", "Sampling", "complete", "generate"]
__all__ += ["sample_token", "speculate", "stream"]
