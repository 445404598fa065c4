"""Every test of this folder runs on one thread."""

from single_thread import one_thread

__all__ = ["one_thread"]
