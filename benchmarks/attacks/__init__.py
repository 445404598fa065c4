"""What strangers, accidents and busy machines do to the gate, and what it must not let them."""
