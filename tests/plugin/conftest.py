"""The plugin runs on a tiny random model, which is built and recorded once and copied into each test's folder."""

from plugin_gate import all_modules, gate, gate_source, one_rounding_a_precision, one_thread

__all__ = ["all_modules", "gate", "gate_source", "one_rounding_a_precision", "one_thread"]
