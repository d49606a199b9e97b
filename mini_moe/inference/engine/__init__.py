"""Fast passes over a few tokens with a cache."""

from mini_moe.inference.engine.decoder import Decoder

__all__ = ["Decoder"]
