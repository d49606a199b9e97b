"""Passes over a few tokens with a cache, laid out for speed."""

from mini_moe.inference.engine.decoder import Decoder

__all__ = ["Decoder"]
