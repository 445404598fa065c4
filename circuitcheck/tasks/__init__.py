"""What a model is asked: pairs of prompts with one answer and one foil."""
