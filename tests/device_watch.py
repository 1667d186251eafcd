"""Watch operations on a CPU for what would cost time or memory on a GPU: synchronisations, large buffers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.bincount}
"""Operations whose result the host needs, or whose shape it must read: each waits for the device."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class DeviceWatch(TorchDispatchMode):
    """Refuses what synchronises a GPU, and counts large buffers that live at the same time.

    Copies to the host (`tolist`, `cpu`) look like nothing on a CPU: only a GPU shows those.
    """

    def __init__(self, large_bytes: int = 1 << 62) -> None:
        super().__init__()
        self.most_alive = 0
        """Largest number of storages of at least `large_bytes` alive at once."""
        self._large_bytes = large_bytes
        self._alive: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self, operation: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = operation.overloadpacket
        masks = packet in INDEXING and any(
            t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None
        )
        if packet in READS or masks:
            raise AssertionError(f"{operation} waits for the device")
        result = operation(*args, **(kwargs or {}))
        self._note(result)
        return result

    def _note(self, result: object) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self._large_bytes:
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage)
        self._alive = {key: ref for key, ref in self._alive.items() if not ref.expired()}
        self.most_alive = max(self.most_alive, len(self._alive))


def large_buffers(action: Callable[[], object], large_bytes: int) -> int:
    """The most buffers of that size alive at once while the action runs, which may not synchronise."""
    with DeviceWatch(large_bytes) as watch:
        action()
    return watch.most_alive
