"""A model's losses and answers in, scores out."""
