"""Dictionaries of features, sparse autoencoders and transcoders, as they lie on disk; no library runs what they say."""
