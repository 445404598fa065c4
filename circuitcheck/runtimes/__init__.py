"""What executes a model. Each runtime alone knows its library."""
