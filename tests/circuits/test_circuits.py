"""The gate on this repository: the embedded model under every precision, against `baselines/embedded`."""

from circuitcheck.suite.test_behaviour import test_behaviour
from circuitcheck.suite.test_drift import test_drift
from circuitcheck.suite.test_importance_ranking import test_importance_ranking
from circuitcheck.suite.test_repair_recovery import test_repair_recovery

__all__ = ["test_behaviour", "test_drift", "test_importance_ranking", "test_repair_recovery"]
