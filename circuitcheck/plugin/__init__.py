"""The pytest plugin around the gate. Importing it imports neither torch nor transformers."""
