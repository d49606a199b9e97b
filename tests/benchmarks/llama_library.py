"""llama.cpp's library through ctypes: load a GGUF file, read tokens, return the last logits."""

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from pathlib import Path

import numpy as np

F32, F16, BF16 = 0, 1, 30  # ggml's type numbers
PADDING = ("rest", ctypes.c_byte * 256)  # parameters after those named here


class ContextParams(ctypes.Structure):
    """The beginning of llama_context_params, as in llama.h of 2026; verified by its defaults."""

    _fields_ = [
        *[(name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")],
        *[(name, c_uint32) for name in ("n_rs_seq", "n_outputs_max")],
        *[(name, c_int32) for name in ("n_threads", "n_threads_batch")],
        ("kinds", c_int32 * 5),  # of context, rope scaling, pooling, attention, flash attention
        ("rope_and_yarn", c_float * 6),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        *[(name, c_void_p) for name in ("cb_eval", "cb_eval_user_data")],
        *[(name, c_int32) for name in ("type_k", "type_v")],
        PADDING,
    ]


class ModelParams(ctypes.Structure):
    """llama_model_params, used as returned."""

    _fields_ = [PADDING]


class Batch(ctypes.Structure):
    """llama_batch: without positions and sequences it means the next positions of one sequence."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        *[(name, c_void_p) for name in ("pos", "n_seq_id", "seq_id")],
        ("logits", POINTER(c_int8)),
    ]


def load(folder: Path) -> ctypes.CDLL:
    """Load llama.cpp's library from a folder, silenced, with the best kernels for this processor.

    Raises: FileNotFoundError without one; ValueError if its parameters have another layout.
    """
    paths = sorted(folder.glob("libllama*.so*"))
    base = sorted(
        path for path in folder.glob("libggml*.so*") if path.name.split(".")[0] == "libggml"
    )
    paths = [path for path in paths if not path.name.startswith("libllama-")]
    if not paths or not base:
        raise FileNotFoundError(f"{folder}: libllama*.so and libggml*.so expected")
    ggml, library = ctypes.CDLL(str(base[0])), ctypes.CDLL(str(paths[0]))
    declare(library)
    library.llama_log_set(QUIET, None)
    ggml.ggml_backend_load_all_from_path(str(folder).encode())
    library.llama_backend_init()
    params = library.llama_context_default_params()
    found = params.n_ctx, params.n_batch, params.n_ubatch, params.type_k, params.type_v
    if found != (512, 2048, 512, F16, F16):
        raise ValueError(f"{paths[0]}: llama_context_params of another layout, got {found}")
    return library


@ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
def QUIET(level: int, text: bytes, data: object) -> None:  # noqa: N802
    """Discard llama.cpp's log."""


def declare(library: ctypes.CDLL) -> None:
    """Declare the types of the functions called here; ctypes would take all others for ints."""
    for name, result, arguments in (
        ("llama_context_default_params", ContextParams, []),
        ("llama_model_default_params", ModelParams, []),
        ("llama_model_load_from_file", c_void_p, [c_char_p, ModelParams]),
        ("llama_init_from_model", c_void_p, [c_void_p, ContextParams]),
        ("llama_set_n_threads", None, [c_void_p, c_int32, c_int32]),
        ("llama_get_memory", c_void_p, [c_void_p]),
        ("llama_memory_clear", None, [c_void_p, c_bool]),
        ("llama_decode", c_int32, [c_void_p, Batch]),
        ("llama_get_logits_ith", POINTER(c_float), [c_void_p, c_int32]),
        ("llama_free", None, [c_void_p]),
        ("llama_model_free", None, [c_void_p]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


class LlamaCpp:
    """One sequence of a model in llama.cpp."""

    def __init__(self, library: ctypes.CDLL, path: Path, vocab: int, bf16: bool) -> None:
        self.library, self.vocab = library, vocab
        params = library.llama_model_default_params()
        self.model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ValueError(f"{path}: llama.cpp cannot load it")
        settings = library.llama_context_default_params()
        settings.type_k = settings.type_v = BF16 if bf16 else F32
        self.context = library.llama_init_from_model(self.model, settings)
        if not self.context:
            raise ValueError(f"{path}: llama.cpp cannot create a context for it")

    def use_threads(self, number: int) -> None:
        """Set the threads of both kinds of passes."""
        self.library.llama_set_n_threads(self.context, number, number)

    def forget(self) -> None:
        """Empty the cache."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def read(self, tokens: list[int]) -> np.ndarray:
        """Read more tokens; return the logits after the last, valid until the next call."""
        batch = Batch(n_tokens=len(tokens), token=(c_int32 * len(tokens))(*tokens))
        if failed := self.library.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode: {failed}")
        logits = self.library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.vocab,))

    def close(self) -> None:
        """Free its memory."""
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)
