"""Sessions of ONNX Runtime, all made in one way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import first_lines

PROVIDER = "CPUExecutionProvider"
FATAL = 4
"""Of what the library logs by itself, to the standard error, where nobody would look for it."""


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are, if not in the model.

    Attributes:
        directory: of the files that the model names.
        taken: name to numbers of those that were taken out of the model; sessions share them.
    """

    directory: Path
    taken: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def make_session(model: Any, weights: Weights, *, optimized: bool = True, profile: Path | None = None) -> Any:
    """A session that runs a model on the CPU.

    Args:
        model: a parsed model.
        weights: what it does not hold itself.
        optimized: as users run it, with every optimization; else node by node.
        profile: how the file begins that says which kernels ran; none is written by default.

    Raises:
        ModelError: the library refuses it.
    """
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads(), 1
    options.log_severity_level = FATAL
    # A thread that waits by turning in circles takes the time of whatever else runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.directory))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    read = read_by_nodes(model.graph)  # what nothing reads is not looked for
    names = (tensor.name for tensor in model.graph.initializer)
    taken = [name for name in names if name in weights.taken and name in read]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights.taken[name]) for name in taken]
    try:
        options.add_external_initializers(taken, values)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    except Exception as error:  # its exceptions have no base class of their own
        raise ModelError(f"ONNX Runtime refuses the model: {first_lines(error)}") from error


def read_by_nodes(graph: Any) -> set[str]:
    """Names of all tensors that nodes read, in branches and loops, too."""
    names: set[str] = set()
    for node in graph.node:
        names |= {*node.input}
        for found in node.attribute:
            for inner in (found.g, *found.graphs):
                names |= read_by_nodes(inner)
    return names


def threads() -> int:
    """How many threads an operator runs in: as many as OMP_NUM_THREADS says, else one a core that may be used."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else len(os.sched_getaffinity(0))
