"""Steps of the domain algorithms on tiny models, without a run around them."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.batches import BatchPlan
from reproduce.method import SampleReweighter
from reproduce.recipe.schema import DomainsSpec, ParallelSpec
from reproduce.training.clock import NO_TIMER
from reproduce.training.mesh import Mesh
from reproduce.training.passes import Work

MESH = Mesh(device=torch.device("cpu"), precision="fp32")


class Unigram(nn.Module):
    """A model of token frequencies: the loss of a token is -log softmax(logits)[token]."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def token_losses(self, tokens_BT: Tensor) -> Tensor:
        return -torch.log_softmax(self.logits, dim=0)[tokens_BT[:, 1:]]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.token_losses(tokens_BT).mean(dim=1)


def start(spec: DomainsSpec, domains: tuple[str, ...], said: list[str] | None = None) -> Any:
    """What a rule asks of a run."""
    return SimpleNamespace(
        recipe=SimpleNamespace(domains=spec, parallel=ParallelSpec()),
        mesh=MESH,
        batches=SimpleNamespace(domains=domains, probabilities_K=np.ones(len(domains))),
        store=SimpleNamespace(path=Path("store")),
        events=SimpleNamespace(warn=[].append if said is None else said.append),
    )


def plan(domains: Sequence[int]) -> BatchPlan:
    return BatchPlan(domains_M=np.array(domains), windows_M=np.zeros(len(domains), dtype=np.int64))


def work(module: nn.Module, tokens_BT: Tensor, micro_batch: int | None = None, kept_graphs: int = 1) -> Work:
    return Work(
        model=module,
        reweighter=SampleReweighter("uniform"),
        micro_batches=torch.split(tokens_BT, micro_batch or len(tokens_BT)),
        counts=[len(tokens_BT)],
        rank=0,
        gather=None,
        kept_graphs=kept_graphs,
        step=1,
        before_forward=lambda part: nullcontext(),
        timer=NO_TIMER,
    )
