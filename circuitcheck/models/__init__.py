"""Loading references and candidates, and telling one model from another."""
