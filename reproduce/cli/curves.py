"""Figure 1's data, computed by the method itself for whoever draws it."""

from reproduce.paper.figures import Curves

STRATEGIES = ("uniform", "linupper", "quadratic", "extremes")
"""The curves of Figure 1."""

POINTS = 201


def figure_one(r: float, delta: float = 1.0) -> Curves:
    """Scores f(h), and the weights that a batch with evenly spread losses gets from them at r."""
    import torch

    from reproduce.method import SCORES, sample_weights

    h = torch.linspace(-delta, delta, POINTS)
    x = h.double().numpy()
    scores = {name: (x, SCORES[name](h, delta).double().numpy()) for name in STRATEGIES}
    weights = {name: (x, POINTS * sample_weights(h, name, r, delta).double().numpy()) for name in STRATEGIES}
    return Curves(scores=scores, weights=weights, r=r)
