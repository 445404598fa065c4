"""From a directory, a GGUF file or a hub id to a model in memory, proven to be what it claims."""
