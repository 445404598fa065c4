"""Reading and replacing `z`, the input of the attention output projection, with plain PyTorch hooks."""
