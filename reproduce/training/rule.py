"""How a step's samples may be weighed otherwise than by a strategy: what the loop asks of such a rule.

Rules come from outside (reproduce.domains): training itself knows none.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from data_prep.batches import BatchPlan
from reproduce.method import Reweighted
from reproduce.training.model import LanguageModel
from reproduce.training.passes import Work

if TYPE_CHECKING:
    from reproduce.training.start import Start


class StepRule(Protocol):
    """The passes of every step of one run, and what they carry from step to step."""

    def module(self) -> nn.Module:
        """What the passes call, as the ranks share it."""

    def passes(self, step: int, plan: BatchPlan, lr: float) -> Callable[[Work], Reweighted]:
        """Forward and backward passes of a step, which leave the gradient of its update.

        Args:
            step: 1 for the first.
            plan: its global batch, in the order of the samples of all ranks.
            lr: its learning rate.
        """

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold besides model and optimizer, alike on all ranks."""

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's tensors, on the host, of which some may be others'."""

    def line(self, step: int) -> dict[str, Any]:
        """What a line of metrics says of the step just taken. Waits for the device."""


class RuleMaker(Protocol):
    """Makes the rule of one run."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides the result besides recipe and data; a resume must find the same."""

    def __call__(self, start: "Start", model: LanguageModel) -> StepRule:
        """The rule of a run whose model is built but not shared yet; all ranks call it.

        Raises:
            UserError: run, data and rule do not go together.
        """
