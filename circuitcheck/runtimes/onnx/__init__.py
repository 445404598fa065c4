"""ONNX Runtime: models in the ONNX format, executed by the kernels that their users run."""
