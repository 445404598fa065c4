"""Detection power: candidates of known truth, and how well detectors tell the benign ones from the faulty ones."""
