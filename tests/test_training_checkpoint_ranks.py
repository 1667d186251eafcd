"""Checkpoints of several gloo ranks: any layout into any other bit for bit, and one rank's failure."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from reproduce.errors import StorageError
from reproduce.training import checkpoint, checkpoint_files, checkpoint_job
from reproduce.training.checkpoint import Checkpoint, Ranks, Saver
from reproduce.training.checkpoint_tensors import held
from tests.checkpoint_net import (
    Net,
    digest,
    flip,
    loaded,
    names,
    newest,
    optimizer_of,
    silent,
    state,
    train,
)  # fmt: skip
from tests.checkpoint_workers import launch, sharded

Layouts = dict[str, tuple[int, ...] | None]
LAYOUTS: dict[int, Layouts] = {
    1: {"plain1": None},
    2: {"ddp2": None, "full2": (2,), "hybrid2x1": (2, 1), "hybrid1x2": (1, 2)},
    3: {"full3": (3,)},
}
"""By number of ranks: shape of the mesh, or None for the same plain parameters on every rank."""
TARGETS: dict[int, Layouts] = {1: LAYOUTS[1], 2: {"full2": (2,), "hybrid1x2": (1, 2)}, 3: LAYOUTS[3]}
ALL_LAYOUTS: dict[int, Layouts] = {
    **LAYOUTS,
    1: {**LAYOUTS[1], "full1": (1,), "hybrid1x1": (1, 1)},
    3: {**LAYOUTS[3], "ddp3": None, "hybrid3x1": (3, 1), "hybrid1x3": (1, 3)},
    4: {"hybrid2x2": (2, 2)},
}
EXTRA = {"range": torch.tensor([1.0, 2.0])}


def network(shape: tuple[int, ...] | None, seed: int) -> tuple[Any, torch.optim.AdamW]:
    if shape is None:
        net = Net(seed)
        return net, optimizer_of(net)
    return sharded(seed, shape)


def save_layouts(ranks: Ranks, folder: Path, layouts: Layouts) -> None:
    """In every layout: train, save, and set down what was saved, as whole tensors."""
    for number, (name, shape) in enumerate(layouts.items()):
        net, optimizer = network(shape, seed=number)
        train(net, optimizer, steps=2, seed=number)
        with torch.no_grad():
            net(torch.tensor([1, 2]))  # leaves the outermost parameters gathered
        Saver(folder / name, keep=1, warn=silent, ranks=ranks).save(2, net, optimizer, EXTRA)
        whole = state(net, optimizer)
        if ranks.rank == 0:
            save_file(whole, folder / f"{name}.whole")


def load_layouts(ranks: Ranks, folder: Path, layouts: Layouts) -> None:
    """Into every layout, every checkpoint that there is."""
    for shape in layouts.values():
        for path in sorted(folder.glob("*.whole")):
            net, optimizer = network(shape, seed=77)
            train(net, optimizer, seed=5)
            with torch.no_grad():
                net(torch.tensor([1, 2]))
            found = checkpoint.latest(folder / path.stem, silent, ranks)
            assert found is not None
            extra = checkpoint.load(found, net, optimizer)
            assert {key: value.tolist() for key, value in extra.items()} == {"range": [1.0, 2.0]}
            assert digest(state(net, optimizer)) == digest(load_file(path)), (shape, path.stem)
            assert all(isinstance(p, DTensor) == (shape is not None) for p in net.parameters())


def check_layouts(folder: Path, layouts_by_world: dict[int, Layouts], targets: dict[int, Layouts]) -> None:
    for world, layouts in layouts_by_world.items():
        launch(world, save_layouts, folder, layouts)
    assert len(list(folder.glob("*.whole"))) == sum(len(layouts) for layouts in layouts_by_world.values())
    for world, layouts in targets.items():
        launch(world, load_layouts, folder, layouts)
    parameters = dict(Net(seed=0).named_parameters())
    numbers = sum(parameter.numel() for parameter in parameters.values())
    for world, layouts in layouts_by_world.items():
        for name, shape in layouts.items():
            found = newest(folder / name)
            # Each number lies on disk once, in as many files as there are shards.
            files = sorted(found.path.glob("model*"))
            assert sum(t.numel() for file in files for t in load_file(file).values()) == numbers
            assert len(files) == (1 if shape is None else shape[-1])
            assert not list(found.path.glob("part*"))
            manifest = json.loads((found.path / "MANIFEST.json").read_text())
            assert manifest["world"] == world
            assert {key[6:] for key in manifest["tensors"] if key[:6] == "model/"} == parameters.keys()


def test_any_layout_loads_into_any_other_bit_for_bit(tmp_path: Path) -> None:
    check_layouts(tmp_path, LAYOUTS, TARGETS)


@pytest.mark.slow
def test_all_layouts_load_into_all_others_bit_for_bit(tmp_path: Path) -> None:
    check_layouts(tmp_path, ALL_LAYOUTS, ALL_LAYOUTS)


def test_of_rows_that_do_not_divide_the_last_ranks_hold_fewer_or_none(tmp_path: Path) -> None:
    launch(3, save_layouts, tmp_path, {"full3": (3,)})
    tensors = json.loads((newest(tmp_path / "full3").path / "MANIFEST.json").read_text())["tensors"]
    files = [f"model-{rank:05d}.safetensors" for rank in range(3)]
    # Seven rows over three ranks as torch.chunk cuts them: 3 + 3 + 1; five: 2 + 2 + 1; one: 1 + 0 + 0.
    assert tensors["model/embedding.weight"]["pieces"] == [
        [files[0], 0, 3],
        [files[1], 3, 3],
        [files[2], 6, 1],
    ]
    assert tensors["model/inner.0.bias"]["pieces"] == [[files[0], 0, 2], [files[1], 2, 2], [files[2], 4, 1]]
    assert tensors["model/inner.2.weight"]["pieces"] == [[files[0], 0, 1]]


def continue_alike(ranks: Ranks, folder: Path) -> None:
    net, optimizer = sharded(1, (ranks.world,))
    train(net, optimizer, steps=2)
    Saver(folder / "c", keep=1, warn=silent, ranks=ranks, background=True).save(
        2, net, optimizer, {}, final=True
    )
    train(net, optimizer, steps=2, seed=8)
    other, other_optimizer = sharded(2, (ranks.world,))
    checkpoint.load(newest(folder / "c"), other, other_optimizer)
    train(other, other_optimizer, steps=2, seed=8)
    assert digest(state(other, other_optimizer)) == digest(state(net, optimizer))


def test_a_sharded_run_continues_with_the_same_numbers(tmp_path: Path) -> None:
    launch(2, continue_alike, tmp_path)


# One rank's failure.


class Failing:
    """Rank 1 cannot write at some steps."""

    def __init__(self, ranks: Ranks, errors: dict[int, Exception]) -> None:
        self._write, self._errors = checkpoint_job.write_tensors, errors if ranks.rank == 1 else {}
        checkpoint_job.write_tensors = self

    def __call__(self, folder: Path, step: int, *others: Any) -> Any:
        if step in self._errors:
            (folder / "half.safetensors").write_bytes(b"half")
            raise self._errors[step]
        return self._write(folder, step, *others)


def agreed_names(ranks: Ranks, folder: Path, expected: list[str]) -> None:
    """What lies there once all ranks are here and before any goes on."""
    ranks.exchange("here")
    assert names(folder) == expected, names(folder)
    ranks.exchange("looked")


def one_rank_fails(ranks: Ranks, folder: Path) -> None:
    full = OSError(28, "No space left on device")
    Failing(ranks, {2: full, 4: full, 5: full, 7: KeyError("a bug")})
    net, optimizer = sharded(1, (ranks.world,))
    train(net, optimizer)
    for background in (False, True):
        place = folder / f"background-{background}"
        said: list[str] = []
        saver = Saver(place, keep=2, warn=said.append, ranks=ranks, background=background)
        for step in (1, 2, 3, 4):
            saver.save(step, net, optimizer, {})
            saver.settle()
            assert saver.committed == {1: 1, 2: 1, 3: 3, 4: 3}[step]
        agreed_names(ranks, place, ["step-0000001", "step-0000003"])
        assert [line.partition(" was not")[0] for line in said] == [
            "the checkpoint of step 2", "the checkpoint of step 4",
        ]  # fmt: skip
        assert all("rank 1: [Errno 28] No space left on device" in line for line in said)
        with pytest.raises(StorageError, match=r"step 5 was not written: rank 1: .* run the same command"):
            saver.save(5, net, optimizer, {}, final=True)
        with pytest.raises(KeyError if ranks.rank == 1 else StorageError, match="a bug"):
            saver.save(7, net, optimizer, {}, final=True)
        agreed_names(ranks, place, ["step-0000001", "step-0000003"])


def test_a_rank_that_cannot_write_is_a_failed_save_on_all_ranks(tmp_path: Path) -> None:
    launch(2, one_rank_fails, tmp_path)


def rank_0_fails(ranks: Ranks, folder: Path) -> None:
    """To commit, and to make the temporary folder."""
    net, optimizer = sharded(1, (ranks.world,))
    train(net, optimizer)

    def full(path: Path, text: str) -> None:
        path.write_text(text[:10], encoding="utf-8")
        raise OSError(28, "No space left on device")

    said: list[str] = []
    saver = Saver(folder / "c", keep=2, warn=said.append, ranks=ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_files, "_write_synced", full)
        saver.save(1, net, optimizer, {})
    agreed_names(ranks, folder / "c", [])
    assert len(said) == 1
    saver.save(2, net, optimizer, {})
    (folder / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"step 1 was not written: .*file"):
        Saver(folder / "file", keep=2, warn=silent, ranks=ranks).save(1, net, optimizer, {}, final=True)


def test_what_fails_on_rank_0_is_known_on_all_ranks(tmp_path: Path) -> None:
    launch(2, rank_0_fails, tmp_path)
    assert [each.step for each in checkpoint.checkpoints(tmp_path / "c")] == [2]


def folders_of_their_own(ranks: Ranks, folder: Path) -> None:
    own = folder / f"node-{ranks.rank}"
    match = r"rank 1 on .* does not see what another rank has written there.*storage that all nodes share"
    with pytest.raises(StorageError, match=match):
        checkpoint.check_shared(own, ranks)
    checkpoint.check_shared(folder / "shared", ranks)
    net, optimizer = sharded(1, (ranks.world,))
    train(net, optimizer)
    with pytest.raises(StorageError, match=match):
        Saver(own, keep=1, warn=silent, ranks=ranks).save(1, net, optimizer, {})
    ranks.exchange("saved")
    assert not list(own.glob("*"))
    Saver(folder / "shared", keep=1, warn=silent, ranks=ranks).save(1, net, optimizer, {})
    if ranks.rank == 0:
        (folder / "shared").rename(own / "only here")
    ranks.exchange("moved")
    own.mkdir(exist_ok=True)
    with pytest.raises(StorageError, match=match):
        checkpoint.latest(own / "only here", silent, ranks)


def test_folders_that_are_not_shared_are_one_clear_error_on_all_ranks(tmp_path: Path) -> None:
    launch(2, folders_of_their_own, tmp_path)
    assert names(tmp_path / "node-0" / "only here") == ["step-0000001"]


def all_choose_the_same(ranks: Ranks, folder: Path) -> None:
    net, optimizer = sharded(1, (ranks.world,))
    for step in (1, 2, 3):
        train(net, optimizer)
        Saver(folder / "c", keep=3, warn=silent, ranks=ranks).save(step, net, optimizer, {})
    if ranks.rank == 0:
        (folder / "c" / ".tmp-4-abc").mkdir()
        # Of two files by name each rank reads one of every kind; each of these is read by another rank.
        flip(folder / "c" / "step-0000003" / "model-00000.safetensors", 200)
        flip(folder / "c" / "step-0000002" / "model-00001.safetensors", 200)
    ranks.exchange("flipped")
    checkpoint.discard_temporaries(folder / "c", ranks)
    agreed_names(ranks, folder / "c", ["step-0000001", "step-0000002", "step-0000003"])
    own = [
        checkpoint.damage(Checkpoint(path=folder / "c" / f"step-000000{step}", step=step), rank=rank, world=2)
        for step, rank in ((3, 0), (3, 1), (2, 0), (2, 1))
    ]
    assert [wrong is None for wrong in own] == [False, True, True, False]
    said: list[str] = []
    found = checkpoint.latest(folder / "c", said.append, ranks)
    assert found is not None
    assert found.step == 1
    assert [line.rpartition("/")[2].partition(":")[0] for line in said] == [
        "model-00000.safetensors", "model-00001.safetensors",
    ]  # fmt: skip


def test_all_ranks_pass_over_what_one_of_them_found_damaged(tmp_path: Path) -> None:
    launch(2, all_choose_the_same, tmp_path)


def beside_training(ranks: Ranks, folder: Path) -> None:
    net, optimizer = sharded(1, (ranks.world,))
    train(net, optimizer)
    saver = Saver(folder / "c", keep=1, warn=silent, ranks=ranks, background=True)
    saver.save(1, net, optimizer, {})
    then = digest(state(net, optimizer))
    if ranks.rank == 0:
        (folder / "then").write_text(then, encoding="utf-8")
    train(net, optimizer, steps=3, seed=2)
    # A run that dies now, long before its next collective about checkpoints, has this one.
    saver.close(seconds=60)
    agreed_names(ranks, folder / "c", ["step-0000001"])


def test_a_background_save_is_complete_before_the_next_collective(tmp_path: Path) -> None:
    launch(2, beside_training, tmp_path)
    assert loaded(newest(tmp_path / "c")) == (tmp_path / "then").read_text()


def cut_along_columns(ranks: Ranks, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (ranks.world,))
    cut = distribute_tensor(torch.zeros(2, 4), mesh, [Shard(1)])
    with pytest.raises(ValueError, match=r"cannot checkpoint a tensor placed as .*Shard\(dim=1\)"):
        held(cut, ranks.rank)


def test_a_tensor_cut_along_its_columns_is_refused(tmp_path: Path) -> None:
    launch(2, cut_along_columns, tmp_path)
