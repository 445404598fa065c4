"""Every test of this folder runs on one thread, and needs ONNX Runtime."""

import pytest
from single_thread import one_thread

__all__ = ["one_thread"]

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
