"""The few llama.cpp calls LMX makes, with Python types and typed errors. Knows no requests.

`llama_cpp` appears only here and where vocabularies, batches and state are. Its signatures are
written by hand from one C header, and a wrong one is silent memory corruption: the version is
pinned, and `tests/unit/test_llama_library.py` calls every function once.
Source: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

import ctypes
import os
from collections import deque
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lmx.catalog.gguf_header import Pooling
from lmx.engines.llama.batch import RowBatch
from lmx.errors import CorruptModel, OutOfMemory
from lmx.protocol.values import GgufOptions

WARNING_LEVEL, ERROR_LEVEL, CONTINUATION_LEVEL = 3, 4, 5  # of ggml.h
MAX_KEPT_LINES = 40
NO_FREE_CELLS, ABORTED = 1, 2
MAX_VALUE_BYTES = 1 << 24
AND_ITS_BUFFERS = False  # what a sequence no longer has is not read, so it need not be zeroed
# What a failed allocation of weights, cache or work space says in the log.
OUT_OF_MEMORY_MARKS = ("failed to allocate", "unable to allocate", "out of memory")
POOLING_TYPES: dict[Pooling, int] = {
    "none": llama_cpp.LLAMA_POOLING_TYPE_NONE,
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
    "rank": llama_cpp.LLAMA_POOLING_TYPE_RANK,
}


class ContextSize(NamedTuple):
    """What a context is made for.

    Attributes:
        cells: Tokens whose keys and values fit, of all sequences together.
        sequences: Most sequences at once, which llama.cpp wants to fit one pass.
        batch_tokens: Most tokens of one pass.
        threads: CPU threads.
        kv_bits: Of one value of keys and values: 8, or `None` for halves.
    """

    cells: int
    sequences: int
    batch_tokens: int
    threads: int
    kv_bits: int | None = None


class Log:
    """What llama.cpp says: warnings and errors are kept, for the reason of a failed load.

    The library holds the callback for as long as the process lives, and so must we.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=MAX_KEPT_LINES)
        self._level = 0
        self.callback = llama_cpp.llama_log_callback(self._take)
        llama_cpp.llama_log_set(self.callback, ctypes.c_void_p(0))

    def last(self) -> str:
        """The last few lines, joined."""
        return "; ".join(list(self.lines)[-3:])

    def _take(self, level: int, text: bytes, _user_data: Any) -> None:
        self._level = self._level if level == CONTINUATION_LEVEL else level
        line = text.decode("utf-8", "replace").strip()
        if line and self._level in {WARNING_LEVEL, ERROR_LEVEL}:
            self.lines.append(line)


def has_amx() -> bool:
    """Whether llama.cpp was built for a CPU with AMX and would use it.

    Its AMX kernels end the process with SIGSEGV in the first pass of several rows, at least for
    4-bit weights (the commit of llama-cpp-python 0.3.36). `scripts/install-gguf` builds without
    them; of another build the plain kernels are used, which are slower with long prompts.
    """
    return b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()


class LlamaModel:
    """Weights and vocabulary. Must outlive every context and tokenizer made of it.

    Args:
        path: The file, or the first of its parts.
        options: Where the weights go.
        vocabulary_only: Read no weights.

    Raises:
        CorruptModel: llama.cpp cannot read it.
        OutOfMemory: There is no room for the weights.
    """

    def __init__(self, path: str, options: GgufOptions, *, vocabulary_only: bool = False) -> None:
        self.log = Log()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        params.load_mode = (
            llama_cpp.LLAMA_LOAD_MODE_MMAP if options.use_mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
        )
        params.vocab_only = vocabulary_only
        params.use_extra_bufts = not has_amx()
        self.pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise self.failure("llama.cpp cannot load the file")
        self.vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)

    @property
    def weight_bytes(self) -> int:
        """Of all tensors together."""
        size: int = llama_cpp.llama_model_size(self.pointer)
        return size

    @property
    def trained_context_tokens(self) -> int:
        """The context the model was made for; 0 if the file does not say."""
        tokens: int = llama_cpp.llama_model_n_ctx_train(self.pointer)
        return max(0, tokens)

    @property
    def can_rewind(self) -> bool:
        """Whether a sequence can be cut back to any length. Recurrent state cannot."""
        return not (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
        )

    @property
    def window_tokens(self) -> int:
        """How far layers with a sliding window look back; 0 if there are none."""
        tokens: int = llama_cpp.llama_model_n_swa(self.pointer)
        return tokens

    @property
    def is_decoder(self) -> bool:
        """Whether it answers a prompt token by token, without an encoder."""
        return bool(
            llama_cpp.llama_model_has_decoder(self.pointer)
            and not llama_cpp.llama_model_has_encoder(self.pointer)
            and not llama_cpp.llama_model_is_diffusion(self.pointer)
        )

    @property
    def is_encoder(self) -> bool:
        """Whether all it has is an encoder of the kind that decoders come with."""
        return bool(
            llama_cpp.llama_model_has_encoder(self.pointer)
            and not llama_cpp.llama_model_has_decoder(self.pointer)
        )

    @property
    def vector_width(self) -> int:
        """Numbers in a vector that it makes of a text."""
        width: int = llama_cpp.llama_model_n_embd_out(self.pointer)
        return width

    @property
    def labels(self) -> list[str]:
        """What its classifier tells apart; a name that the file does not give is empty."""
        count: int = llama_cpp.llama_model_n_cls_out(self.pointer)
        names = (llama_cpp.llama_model_cls_label(self.pointer, index) for index in range(count))
        return [(name or b"").decode("utf-8", "replace") for name in names]

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text; `None` if there is none."""
        size: int = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if not 0 <= size <= MAX_VALUE_BYTES:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def failure(self, what: str) -> CorruptModel | OutOfMemory:
        """The error that the log's last lines amount to."""
        said = self.log.last()
        kind = OutOfMemory if _is_out_of_memory(self.log) else CorruptModel
        return kind(f"{what}: {said}" if said else what)

    def close(self) -> None:
        """Free the weights. Idempotent."""
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class LlamaContext:
    """The cache of keys and values, and passes over it. Engine thread only, but for `abort`.

    One cache serves all sequences ("unified"), so that sharing a prefix copies nothing.

    Args:
        model: Stays open as long as this.
        size: What to make room for.

    Raises:
        OutOfMemory: There is no room for it.
        CorruptModel: llama.cpp refuses the model.
    """

    def __init__(self, model: LlamaModel, size: ContextSize) -> None:
        self._model = model
        self.size = size
        params = _context_params(size)
        params.swa_full = True  # or a prefix could not be reused in models with sliding windows
        self.pointer = _open_context(model, params)
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        # llama.cpp asks after every operation of a pass whether to go on. A Python callback would
        # need the GIL each time, a tenth of a small model's step. `strlen` of this buffer answers
        # as well: 0 while its first byte is 0.
        self._abort_flag = ctypes.create_string_buffer(2)
        self._abort_callback = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(
            self.pointer, self._abort_callback, ctypes.cast(self._abort_flag, ctypes.c_void_p)
        )

    def abort(self) -> None:
        """End the running pass early. From any thread."""
        self._abort_flag[0] = b"\x01"

    def allow(self) -> None:
        """Let the next pass run to its end."""
        self._abort_flag[0] = b"\x00"

    def decode(self, batch: RowBatch) -> int:
        """Run one pass.

        Returns:
            0, `NO_FREE_CELLS` (nothing changed) or `ABORTED` (call `cut` for each sequence).

        Raises:
            OutOfMemory: The device has no room. The context's state is lost.
            RuntimeError: Any other failure. The context's state is lost.
        """
        code: int = llama_cpp.llama_decode(self.pointer, batch.struct())
        if code in {0, NO_FREE_CELLS, ABORTED}:
            return code
        said = self._model.log.last()
        if _is_out_of_memory(self._model.log):
            raise OutOfMemory(f"the device ran out of memory: {said}")
        raise RuntimeError(f"llama_decode failed with {code}: {said}")

    def synchronise(self) -> None:
        """Wait until the device has done every pass; a GPU goes on after `decode` returned."""
        llama_cpp.llama_synchronize(self.pointer)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """What the last pass predicts, a view that the next pass overwrites.

        Shapes: -> (rows, V) float32, rows in the order they were asked for.
        """
        pointer = llama_cpp.llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(pointer, (rows, self._model.vocabulary_size))

    def cut(self, sequence: int, length: int) -> bool:
        """Forget a sequence's tokens from `length` on; False if the model cannot, all kept."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence the cache holds."""
        last: int = llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)
        return last + 1

    def share(self, source: int, target: int, length: int) -> None:
        """Let `target`, which is empty, begin with the first `length` tokens of `source`."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def sequence_bytes(self, sequence: int) -> int:
        """What a sequence's state takes."""
        size: int = llama_cpp.llama_state_seq_get_size(self.pointer, sequence)
        return size

    def close(self) -> None:
        """Free the cache and the work space. Idempotent."""
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None


class VectorContext:
    """Passes that make one vector, or the outputs of a classifier, of each sequence.

    Args:
        model: Stays open as long as this.
        size: What to make room for.
        pooling: How many hidden states become one.

    Raises:
        OutOfMemory: There is no room for it.
        CorruptModel: llama.cpp refuses the model.
    """

    def __init__(self, model: LlamaModel, size: ContextSize, pooling: Pooling) -> None:
        self._model = model
        self.size = size
        params = _context_params(size)
        params.embeddings = True
        params.pooling_type = POOLING_TYPES[pooling]
        self.pointer = _open_context(model, params)
        # Encoders of BERT's kind keep nothing between passes, and have no memory at all.
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        is_decoding = self._memory and not model.is_encoder
        self._run = llama_cpp.llama_decode if is_decoding else llama_cpp.llama_encode

    def forget(self) -> None:
        """Begin with empty sequences."""
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, AND_ITS_BUFFERS)

    def run(self, batch: RowBatch) -> None:
        """Run one pass, all rows of which are wanted.

        Raises:
            OutOfMemory: The device has no room. Call `forget` before anything else.
            RuntimeError: Any other failure.
        """
        code: int = self._run(self.pointer, batch.struct())
        if code == 0:
            return
        log = self._model.log
        said, is_out_of_memory = log.last(), _is_out_of_memory(log)
        log.lines.clear()  # the next failure, if any, has reasons of its own
        if is_out_of_memory:
            raise OutOfMemory(f"the device ran out of memory: {said}")
        raise RuntimeError(f"llama.cpp failed with {code}: {said}")

    def read(self, out: NDArray[np.float32]) -> None:
        """Copy what the last pass made of the sequences from 0 on.

        Args:
            out: (sequences, width) float32, with the width of a vector or of the classifier.
        """
        for sequence, row in enumerate(out):
            pointer = llama_cpp.llama_get_embeddings_seq(self.pointer, sequence)
            if not pointer:
                raise RuntimeError(f"llama.cpp made nothing of sequence {sequence}")
            row[:] = np.ctypeslib.as_array(pointer, row.shape)

    def synchronise(self) -> None:
        """Wait until the device has done every pass."""
        llama_cpp.llama_synchronize(self.pointer)

    def close(self) -> None:
        """Free the work space. Idempotent."""
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None


def max_sequences() -> int:
    """The most sequences this build of llama.cpp takes in one context."""
    count: int = llama_cpp.llama_max_parallel_sequences()
    return count


def has_gpu() -> bool:
    """Whether this build can put layers on a GPU that is there."""
    return bool(llama_cpp.llama_supports_gpu_offload())


def _context_params(size: ContextSize) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = size.cells
    params.n_seq_max = size.sequences
    params.n_batch = params.n_ubatch = size.batch_tokens
    params.n_threads = params.n_threads_batch = size.threads
    params.kv_unified = True
    params.no_perf = True
    if size.kv_bits is not None:
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
        # Only flash attention reads quantised values.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return params


def _open_context(model: LlamaModel, params: Any) -> Any:
    pointer = llama_cpp.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise model.failure("llama.cpp cannot make a context")
    return pointer


def _is_out_of_memory(log: Log) -> bool:
    return any(mark in line.lower() for line in log.lines for mark in OUT_OF_MEMORY_MARKS)
