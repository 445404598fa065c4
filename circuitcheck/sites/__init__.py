"""Where attention heads can be read and replaced in a model as it is shipped."""
