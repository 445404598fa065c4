"""Models of Hugging Face transformers, run by PyTorch."""
