"""Parts of runs are made by the plugin, on the same tiny random model."""

from plugin_gate import all_modules, gate, gate_source, one_rounding_a_precision, one_thread

__all__ = ["all_modules", "gate", "gate_source", "one_rounding_a_precision", "one_thread"]
