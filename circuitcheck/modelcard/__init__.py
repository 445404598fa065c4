"""The verdict on a model card. Nothing is measured here: it shows a report."""
