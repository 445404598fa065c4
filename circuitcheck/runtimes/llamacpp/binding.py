"""llama.cpp as llama-cpp-python binds it, and the few functions of ggml that the binding leaves out.

The libraries and their ctypes structures come from one package and belong together; nothing else is ever loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import extra_needed, first_lines

PACKAGE, EXTRA = "llama-cpp-python", "llamacpp"

DIMENSIONS, SOURCES, NAME_BYTES, PARAMETER_INTS = 4, 10, 64, 16


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h; `require_layout` holds it against what the library says of its own tensors."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * DIMENSIONS),
        ("nb", ctypes.c_size_t * DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * PARAMETER_INTS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * NAME_BYTES),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


GGML_FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "ggml_backend_tensor_get": ([ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None),
    "ggml_backend_tensor_set": ([ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None),
    "ggml_get_name": ([ctypes.c_void_p], ctypes.c_char_p),
    "ggml_op_desc": ([ctypes.c_void_p], ctypes.c_char_p),
    "ggml_op_name": ([ctypes.c_int], ctypes.c_char_p),
    "ggml_type_name": ([ctypes.c_int], ctypes.c_char_p),
    "ggml_type_size": ([ctypes.c_int], ctypes.c_size_t),
    "ggml_blck_size": ([ctypes.c_int], ctypes.c_int64),
    "ggml_nelements": ([ctypes.c_void_p], ctypes.c_int64),
    "ggml_nbytes": ([ctypes.c_void_p], ctypes.c_size_t),
    "ggml_version": ([], ctypes.c_char_p),
    "ggml_commit": ([], ctypes.c_char_p),
}
"""Types of arguments and of the result, as ggml.h and ggml-backend.h declare them."""


@dataclass(frozen=True)
class Binding:
    """The libraries of one installation.

    Attributes:
        llama: the binding's module of llama.h.
        ggml: functions of ggml, by the names in `GGML_FUNCTIONS`.
        version: of the package.
    """

    llama: Any
    ggml: Any
    version: str

    @property
    def build(self) -> str:
        """Version and commit of ggml, as far as they were known when it was built."""
        found = [self.ggml.ggml_version(), self.ggml.ggml_commit()]
        return " ".join(text.decode() for text in found if text not in (b"", b"unknown"))

    @property
    def instruction_sets(self) -> str:
        """What the CPU kernels were built for and the machine has, such as `AVX AVX2 F16C FMA`."""
        said = self.llama.llama_print_system_info().decode(errors="replace")
        parts = (part.strip() for part in said.replace("|", ":").split(":"))
        return " ".join(part.removesuffix(" = 1") for part in parts if part.endswith(" = 1"))

    def type_name(self, kind: int) -> str:
        """A type of tensors in ggml's words, such as `q8_0`."""
        return str(self.ggml.ggml_type_name(kind).decode())


def load_binding() -> Binding:
    """The installed binding, ready to load models; it says nothing on its own.

    Raises:
        ModelError: the package is missing, or its libraries cannot be loaded here.
    """
    try:
        import llama_cpp
        from llama_cpp import _utils
        from llama_cpp import llama_cpp as llama
        from llama_cpp._ctypes_extensions import load_shared_library
        from llama_cpp._logger import logger
    except ImportError as error:
        raise ModelError(extra_needed("a GGUF file in llama.cpp", EXTRA)) from error
    except Exception as error:  # it raises what its libraries make of this machine
        raise ModelError(f"{PACKAGE} is installed, but does not load here: {first_lines(error)}") from error
    # It prints what its libraries log; why a file is refused is told by the process that tries it.
    logger.setLevel(logging.CRITICAL + 1)
    for unclosed in (_utils.outnull_file, _utils.errnull_file):
        atexit.register(unclosed.close)
    llama.llama_backend_init()
    ggml = load_shared_library("ggml-base", Path(str(llama_cpp.__file__)).parent / "lib")
    for name, (arguments, result) in GGML_FUNCTIONS.items():
        function = getattr(ggml, name)
        function.argtypes, function.restype = arguments, result
    return Binding(llama, ggml, version(PACKAGE))


def require_layout(binding: Binding, address: int) -> None:
    """Refuses a library whose tensors are laid out otherwise than `GgmlTensor` has it.

    Args:
        binding: the library.
        address: of one of its tensors.

    Raises:
        ModelError: a field does not say what the library's own function says.
    """
    tensor, ggml = GgmlTensor.from_address(address), binding.ggml
    numbers = 1
    for size in tensor.ne:
        numbers *= size
    agrees = (
        tensor.name == ggml.ggml_get_name(address)
        and numbers == ggml.ggml_nelements(address)
        # A unary operation is described by its own name.
        and ggml.ggml_op_name(tensor.op) in (ggml.ggml_op_desc(address), b"UNARY", b"GLU")
    )
    if not agrees:
        raise ModelError(
            f"{PACKAGE} {binding.version} lays out its tensors in a way that is not known, so nothing in them can be "
            "read; install the version that constraints.txt names."
        )
