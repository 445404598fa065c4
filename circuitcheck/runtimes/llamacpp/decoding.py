"""A model in llama.cpp, and contexts in which rows of tokens are decoded side by side.

Every row is a sequence with a cache of its own (`kv_unified` off), so that no row attends to, or is summed beside,
the cells of another one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.runtimes.llamacpp.binding import Binding
from circuitcheck.runtimes.llamacpp.cache_types import CacheType
from circuitcheck.runtimes.llamacpp.eval_hook import EvalHook, Node, Place, Visit

FloatArray = NDArray[np.float32]

CELLS = 256
"""A sequence's cache has a multiple of so many cells; llama.cpp pads to it."""

MOST_ROWS = 16
"""Sequences side by side; llama.cpp takes 256, and more than a dozen are no faster on a CPU."""


class LoadedModel:
    """The weights of one file, as llama.cpp holds them; freed with this object.

    Attributes:
        binding: the libraries that hold it.
        address: of `llama_model`.
        vocabulary: how many token ids it knows.
        layers: how many it has.
        name: how messages call it.
    """

    def __init__(self, binding: Binding, file: Path, name: str) -> None:
        llama = binding.llama
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        # Tensors whose numbers are not finite are what the gate measures, too.
        parameters.check_tensors = False
        address = llama.llama_model_load_from_file(str(file).encode(), parameters)
        if not address:
            raise ModelError(f"{name} cannot be loaded by llama.cpp ({binding.version}).")
        self.binding, self.address, self.name = binding, address, name
        self.vocabulary = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(address)))
        self.layers = int(llama.llama_model_n_layer(address))
        self._free = finalize(self, llama.llama_model_free, address)

    def sibling(self, file: Path) -> LoadedModel:
        """Another file, in the same libraries."""
        return LoadedModel(self.binding, file, self.name)

    def close(self) -> None:
        """Frees the weights; every context of it must be closed before."""
        self._free()


class Decoder:
    """One context: rows of tokens in, logits at the last position out.

    Attributes:
        model: whose weights it uses.
        rows: the most sequences side by side.
        cells: the most positions of one.
        tokens: the most that one pass decodes.

    Args:
        model: whose weights it uses.
        cache: type of its keys and values.
        rows: the most sequences side by side.
        positions: the most positions of one.
        threads: that compute.
        is_hooked: whether values can be seen; without, llama.cpp computes each graph in one go.
        is_whole: whether logits are made at all positions, so that the last layer drops none before it has ended.

    Raises:
        ConfigurationError: the model cannot have such a cache, or there is not enough memory.
    """

    def __init__(
        self,
        model: LoadedModel,
        cache: CacheType,
        rows: int,
        positions: int,
        threads: int,
        *,
        is_hooked: bool = True,
        is_whole: bool = False,
    ) -> None:
        llama = model.binding.llama
        self.model, self.rows, self.cells = model, rows, -(-positions // CELLS) * CELLS
        self.tokens = positions * rows
        self._hook = EvalHook(model.binding)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = self.cells * rows
        parameters.n_batch = parameters.n_ubatch = positions * rows
        parameters.n_seq_max = rows
        parameters.n_outputs_max = self.tokens if is_whole else rows
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k = parameters.type_v = cache.number
        if not cache.has_flash_attention:
            parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.offload_kqv = parameters.op_offload = False
        if is_hooked:
            parameters.cb_eval = self._hook.callback
        address = llama.llama_init_from_model(model.address, parameters)
        if not address:
            raise ConfigurationError(
                f"{model.name}: llama.cpp makes no context of {rows} rows of {positions} positions with a {cache.name} "
                "cache. Types of blocks need heads as wide as a multiple of them; otherwise memory is short."
            )
        self._address = address
        self._memory = llama.llama_get_memory(address)
        self._tokens = _Tokens(llama, positions * rows, is_whole=is_whole)
        self._is_whole = is_whole
        self._free = finalize(self, llama.llama_free, address)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees it."""
        self._free()

    def forget(self, start: int = 0) -> None:
        """Drops what all rows have from some position on."""
        self.model.binding.llama.llama_memory_seq_rm(self._memory, -1, start, -1)

    def copy(self, row: int, other: int) -> None:
        """Gives one row everything that is in the cache of another."""
        self.model.binding.llama.llama_memory_seq_cp(self._memory, row, other, -1, -1)

    def trace(self, ids: NDArray[np.int64]) -> list[Node]:
        """The nodes of the graph that computes some rows, `[rows, seq]`; what they have in the cache is dropped."""
        self.forget()
        return self._hook.trace(lambda: self._decode(ids, 0))

    def run(self, ids: NDArray[np.int64], start: int = 0, visits: Mapping[Place, Visit] | None = None) -> FloatArray:
        """Decodes rows behind what is in their caches.

        Args:
            ids: token ids, `[rows, seq]`.
            start: position of the first of them.
            visits: who sees which value, `[rows * seq, width]`, row by row.

        Returns:
            Logits at the last position, `[rows, vocabulary]`.

        Raises:
            ModelError: llama.cpp does not decode them.
            SiteError: the graph is another than the one that the places are of.
        """
        if visits:
            logits: FloatArray = self._hook.visit(visits, lambda: self._decode(ids, start))
            return logits
        return self._decode(ids, start)

    def _decode(self, ids: NDArray[np.int64], start: int) -> FloatArray:
        llama, rows = self.model.binding.llama, len(ids)
        code = llama.llama_decode(self._address, self._tokens.batch(ids, start))
        if code != 0:
            raise ModelError(
                f"{self.model.name}: llama.cpp did not decode {rows} rows of {ids.shape[1]} tokens (code {code})."
            )
        found = llama.llama_get_logits(self._address)
        outputs = ids.shape[1] if self._is_whole else 1
        return np.ctypeslib.as_array(found, (rows, outputs, self.model.vocabulary))[:, -1].copy()


class _Tokens:
    """The arrays behind a `llama_batch`, which has a pointer a token to the list of its sequences."""

    def __init__(self, llama: Any, most: int, *, is_whole: bool) -> None:
        self._llama, self._is_whole = llama, is_whole
        self._token, self._position, self._row = (np.zeros(most, np.int32) for _ in range(3))
        self._rows_a_token, self._is_output = np.ones(most, np.int32), np.zeros(most, np.int8)
        self._row_pointers = self._row.ctypes.data + 4 * np.arange(most, dtype=np.uint64)

    def batch(self, ids: NDArray[np.int64], start: int) -> Any:
        rows, seq = ids.shape
        count = rows * seq
        self._token[:count] = ids.ravel()
        self._position[:count] = np.tile(np.arange(start, start + seq, dtype=np.int32), rows)
        self._row[:count] = np.repeat(np.arange(rows, dtype=np.int32), seq)
        self._is_output[:count] = self._is_whole
        self._is_output[seq - 1 : count : seq] = 1
        batch = self._llama.llama_batch()
        batch.n_tokens = count
        batch.token = _pointer(self._token, self._llama.llama_token)
        batch.pos = _pointer(self._position, self._llama.llama_pos)
        batch.n_seq_id = _pointer(self._rows_a_token, ctypes.c_int32)
        batch.seq_id = _pointer(self._row_pointers, ctypes.POINTER(self._llama.llama_seq_id))
        batch.logits = _pointer(self._is_output, ctypes.c_int8)
        return batch


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
