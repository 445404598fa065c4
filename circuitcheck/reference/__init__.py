"""Recording the float32 reference that candidates are compared with."""
