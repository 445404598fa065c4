"""Does a quantized transformer still compute the same way? A pytest regression suite for circuit preservation."""
