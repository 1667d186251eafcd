"""Program of one rank: `reweight train` several times over, each time with one fault put in.

Usage: python -m tests.rank_train SCENARIOS.json

SCENARIOS is a list of {"fault", "rank", "step", "port", "arguments"}: the fault happens on that rank just
before it takes that step. Prints the exit codes as one JSON list.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reproduce.cli.root import run
from reproduce.training import loop
from reproduce.training.model import LanguageModel
from reproduce.training.step import StepOutcome, train_step

FORWARD = LanguageModel.forward


def poison(sample: torch.Tensor) -> None:
    """The loss of this sample is not a number, whenever it is computed in training."""

    def poisoned(self: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
        losses = FORWARD(self, tokens)
        bad = (tokens == sample).all(dim=1) & self.training
        return losses + torch.where(bad, float("nan"), 0.0)

    LanguageModel.forward = poisoned  # type: ignore[method-assign]


def one_ulp(model: LanguageModel) -> None:
    """The last bit of one parameter flips: of the largest, where no later update rounds it away."""
    with torch.no_grad():
        largest = max(model.parameters(), key=lambda parameter: float(parameter.abs().max()))
        place = int(largest.abs().argmax())
        largest.view(-1)[place : place + 1].view(torch.int32).bitwise_xor_(1)


def fail() -> None:
    raise MemoryError("out of memory")


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


SIMPLE: dict[str, Callable[[], None]] = {
    "die": send(signal.SIGKILL),
    "hang": lambda: time.sleep(3600),
    "term": send(signal.SIGTERM),
    "int": send(signal.SIGINT),
    "save": send(signal.SIGUSR1),
    "raise": fail,
}


@contextmanager
def fault_in(fault: str, rank: int, step: int) -> Iterator[None]:
    def faulty(*positional: Any, **named: Any) -> StepOutcome:
        if named["mesh"].rank == rank and named["step"] == step:
            if fault in SIMPLE:
                SIMPLE[fault]()
            elif fault == "ulp":
                one_ulp(positional[0])
            elif fault == "other batch":
                named["note"] = named["note"] + torch.tensor([1, 0, 0], dtype=torch.int32)
        if named["mesh"].rank == rank and named["step"] >= step and fault == "nan":
            poison(positional[3][0])
        return train_step(*positional, **named)

    loop.train_step = faulty  # type: ignore[attr-defined]
    try:
        yield
    finally:
        LanguageModel.forward = FORWARD  # type: ignore[method-assign]


def main(scenarios: list[dict[str, Any]]) -> None:
    codes = []
    for scenario in scenarios:
        os.environ["MASTER_PORT"] = str(scenario["port"])
        with fault_in(scenario["fault"], scenario["rank"], scenario["step"]):
            codes.append(int(run(["train", *scenario["arguments"]])))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
