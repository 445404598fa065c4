"""Sessions of ONNX Runtime, all made in one way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import first_lines

PROVIDER = "CPUExecutionProvider"
FATAL = 4
"""Of what the library logs by itself, to the standard error, where nobody would look for it."""


def make_session(model: Any, directory: Path, *, optimized: bool = True, profile: Path | None = None) -> Any:
    """A session that runs a model on the CPU.

    Args:
        model: a parsed model; weights that it keeps in other files stay there.
        directory: where these lie.
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
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(directory))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    except Exception as error:  # its exceptions have no base class of their own
        raise ModelError(f"ONNX Runtime refuses the model: {first_lines(error)}") from error


def threads() -> int:
    """How many threads an operator runs in: as many as OMP_NUM_THREADS says, else one a core that may be used."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else len(os.sched_getaffinity(0))
