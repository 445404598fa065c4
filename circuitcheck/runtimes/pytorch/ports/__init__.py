"""Where units are read and written in a model as it is shipped, and the proofs of it."""
