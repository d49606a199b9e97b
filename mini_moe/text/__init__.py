"""Text in, labelled tokens out: the corpus, its tokenizer, its batches."""

from mini_moe.text.batches import Batch, Split, Windows, bits_per_byte, sample_batch, windows
from mini_moe.text.corpus import Corpus, load_corpus, split_of
from mini_moe.text.domains import DOMAINS, Document, data_folder
from mini_moe.text.tokenizer import Tokenizer, default_tokenizer

__all__ = [
    "DOMAINS", "Batch", "Corpus", "Document", "Split", "Tokenizer", "Windows", "bits_per_byte",
    "data_folder", "default_tokenizer", "load_corpus", "sample_batch", "split_of", "windows",
]  # fmt: skip
