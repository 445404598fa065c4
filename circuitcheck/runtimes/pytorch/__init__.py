"""Models of Hugging Face transformers, run by PyTorch."""

UNIT_KINDS = ("head", "block")
"""Kinds of unit that it can read and write: attention heads, or each layer's whole attention and whole MLP."""
