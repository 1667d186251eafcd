"""Tasks scored while a run goes on: all ranks share the requests, and training waits no longer than that."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_prep.errors import DataError
from eval.records import TaskRecord
from eval.suites import load_suites
from reproduce.errors import one_line
from reproduce.scoring.curves import draw_curves
from reproduce.scoring.hub import ClientHub
from reproduce.scoring.models import Loaded, living_model
from reproduce.scoring.targets import step_folder
from reproduce.scoring.tasks import Failure, ScoringEvents, ScoringOptions, score_tasks, shared_data
from reproduce.training.model import store_tokenizer
from reproduce.training.start import Start


class IntervalScorer:
    """Scores a suite every so many steps, into RUN/evaluations, as `reweight eval --checkpoint` does."""

    def __init__(
        self, suite: str, every_steps: int, options: ScoringOptions, warn: Callable[[str], None]
    ) -> None:
        """What to score, how often and how; `warn` gets one line about each task that fails."""
        self._suite, self._every = load_suites()[suite], every_steps
        self._options, self._warn = options, warn

    def due(self, step: int, steps: int) -> bool:
        """Whether the model after this step, of so many, is to be scored."""
        return step == steps or step % self._every == 0

    def prepare(self, start: Start) -> None:
        """Fetch the data; warn of each task that cannot be scored now.

        Raises:
            DataError: the token store has no tokenizer that can be loaded.
        """
        _tokenizer(start)
        for task in self._suite.tasks:
            found = shared_data(task, ClientHub(), start.mesh, self._options)
            if isinstance(found, Failure):
                self._warn(f"will be tried again: {one_line(found.message)}")

    def __call__(
        self, start: Start, step: int, network: PreTrainedModel, parameters: Iterable[tuple[str, Tensor]]
    ) -> Mapping[str, Any]:
        """Score a copy of the network; all ranks call it. Returns the line for metrics.jsonl.

        A task that fails is warned about, and tried again the next time; training goes on.
        """
        mesh = start.mesh
        model = _Ready(living_model(network, parameters, _tokenizer(start), mesh.device))
        outcome = score_tasks(
            model,
            self._suite.tasks,
            step_folder(start.folder.path, step),
            ClientHub(),
            mesh,
            self._options,
            ScoringEvents(warn=self._warn, stop=lambda: start.events.stop() is not None),
        )
        del model
        if mesh.leads:
            draw_curves(start.folder.path, self._suite.name, self._suite.tasks, self._options, self._warn)
        if mesh.device.type == "cuda":
            torch.cuda.empty_cache()
        for failure in outcome.failures:
            self._warn(f"step {step}: {one_line(failure.message)}")
        return {
            "kind": "tasks",
            "step": step,
            "suite": self._suite.name,
            "scores": {record.key.task: _values(record) for record in outcome.records},
            "failed": [failure.task for failure in outcome.failures],
        }


def _tokenizer(start: Start) -> PreTrainedTokenizerFast:
    store, context = start.store, start.recipe.model.context
    file = store.path / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"{store.path} has no tokenizer.json, and prompts are text; prepare the data again")
    return store_tokenizer(file, store.manifest.tokenizer.end_of_text, context)


def _values(record: TaskRecord) -> dict[str, float]:
    return {metric.name: metric.value for metric in record.metrics}


class _Ready:
    """A model that is loaded already."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @property
    def sha256(self) -> str:
        return self._loaded.sha256

    def load(self) -> Loaded:
        return self._loaded
