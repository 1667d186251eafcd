"""The gradients of several domains at once, flat: one row a domain, on the device or on the host.

Shapes: K domains, P parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

COLUMNS_AT_A_TIME = 1 << 20
"""Parameters whose gradients are multiplied in float64 at a time."""


class DomainGradients:
    """K x P float32, written by backward passes in place: parameters' gradients are views of a row."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], domains: int, on: Literal["device", "host"]
    ) -> None:
        """Rows of zeros.

        Args:
            parameters: float32, each tied one once, on their device.
            domains: K.
            on: where the rows lie; with host, one row on the device is filled and copied away K times.
        """
        self._parameters = parameters
        device = parameters[0].device
        size = sum(parameter.numel() for parameter in parameters)
        self._away = on == "host" and device.type != "cpu"
        self._rows_KP = torch.zeros(
            domains, size, device="cpu" if self._away else device, pin_memory=self._away
        )
        self._flat_P = torch.zeros(size, device=device)

    @contextmanager
    def collecting(self, domain: int) -> Iterator[Tensor]:
        """Backward passes inside add to this domain's row, which begins at 0; gives the row (P,)."""
        row_P = self._flat_P if self._away else self._rows_KP[domain]
        row_P.zero_()
        self._point_to(row_P)
        yield row_P
        if self._away:
            self._rows_KP[domain].copy_(row_P, non_blocking=True)

    def gram(self) -> Tensor:
        """Inner products <g_i, g_j> (K, K), float64, on the device."""
        if self._away:
            torch.cuda.synchronize()
        total = sum(
            part.double() @ part.double().T for part in torch.split(self._rows_KP, COLUMNS_AT_A_TIME, dim=1)
        )
        assert isinstance(total, Tensor)
        return total.to(self._flat_P.device)

    def combine(self, factors_K: Tensor) -> None:
        """Leave sum_j factor_j g_j as the parameters' gradient."""
        factors_K = factors_K.to(self._rows_KP.device, torch.float32)
        if self._away:
            self._flat_P.copy_(self._rows_KP.T @ factors_K)
        else:
            torch.mv(self._rows_KP.T, factors_K, out=self._flat_P)
        self._point_to(self._flat_P)

    def _point_to(self, flat_P: Tensor) -> None:
        parts = torch.split(flat_P, [parameter.numel() for parameter in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
