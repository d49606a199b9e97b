"""Small tokenizers of the kinds that other projects use, as JSON."""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

BEGIN, END = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"


def deepseek_like() -> tokenizers.Tokenizer:
    """Byte-level BPE as DeepSeek publishes it: id 0 starts a text, id 1 ends it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.decoder = decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["hello world this is a test "] * 9, trainer)
    backend.add_tokens(["<think>", "</think>"])
    return backend


def changed(**parts) -> str:
    """Replace parts of `deepseek_like`'s JSON; in a dict, only the entries given."""
    content = json.loads(deepseek_like().to_str())
    for name, value in parts.items():
        both = isinstance(value, dict) and isinstance(content[name], dict)
        content[name] = content[name] | value if both else value
    return json.dumps(content)


def with_added(token: AddedToken) -> str:
    """Add a token to `deepseek_like` that is matched in texts before all others."""
    backend = deepseek_like()
    backend.add_tokens([token])
    return backend.to_str()


def with_vocabulary(**tokens) -> str:
    """Add entries to the vocabulary of `deepseek_like`."""
    model = json.loads(deepseek_like().to_str())["model"]
    return changed(model=model | {"vocab": model["vocab"] | tokens})


def word_level() -> str:
    """Whole words; blanks are thrown away."""
    vocabulary = {"<|endoftext|>": 0, "hello": 1, "world": 2}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend.to_str()


def word_piece() -> str:
    """The kind BERT uses."""
    vocabulary = {"[UNK]": 0, "hello": 1, "##world": 2}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return backend.to_str()


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LLAMA = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
PREFIX = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
WHITESPACE = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, PREFIX]}
WHITESPACE["pretokenizers"][1] = PREFIX | {"add_prefix_space": False}
