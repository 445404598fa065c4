"""Models of Hugging Face transformers, run by PyTorch."""

UNIT_KINDS = ("head", "block", "neuron")
"""Kinds of unit that it can read and write: attention heads, each layer's whole attention and whole MLP, or neurons of
MLPs."""

FEATURE = "feature"
"""Kind of units that dictionaries give: features, latents of sparse autoencoders and transcoders."""
