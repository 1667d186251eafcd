"""What scoring would take, before it begins: data to fetch, requests, tokens, time on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eval.errors import EvaluationError
from eval.records import find_record
from eval.suites import EvalTask
from eval.task_data import Hub, locate
from reproduce.scoring.models import Loaded
from reproduce.scoring.tasks import ScoringOptions, keys_of

SHORTEST, LONGEST = 16, 1024
"""Tokens of the requests by which the speed is measured."""
GENERATED = 8
"""Tokens generated to measure the speed of that."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What this machine reaches with a model."""

    tokens_a_second: float
    """Of prompts, scored in full batches."""
    generated_a_second: float
    """Tokens that a batch of prompts generates."""


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """What one task would take."""

    task: EvalTask
    requests: int
    tokens: int
    """At most, by our estimate of a prompt's length in GPT-2 tokens, cut to the context."""
    seconds: float
    """At most: prompts that share an answer's place are scored once, and generation may end early."""
    recorded: bool
    """Whether a record is there, so that nothing has to be done."""
    dataset: str | None
    bytes: int
    """Of its data."""
    missing_bytes: int
    """Of these, to be fetched."""
    problem: str | None
    """Why it will fail."""
    exit_code: int


def plan_tasks(
    tasks: Sequence[EvalTask],
    loaded: Loaded,
    folder: Path,
    hub: Hub,
    options: ScoringOptions,
) -> list[TaskPlan]:
    """What each task would take with this model; nothing of the data sets is fetched.

    Args:
        tasks: to be scored.
        loaded: the model, whose speed is measured.
        folder: of records.
        hub: asked where the data is, and how much.
        options: of scoring.
    """
    context = context_of(loaded)
    speed = measure_speed(loaded, options.batch_size, [_length(task, context) for task in tasks])
    keys = keys_of(loaded.sha256, tasks, options)
    return [
        _plan(
            task,
            context,
            speed,
            hub,
            options,
            recorded=find_record(folder, keys[task.name], lambda line: None) is not None,
        )
        for task in tasks
    ]


def context_of(loaded: Loaded) -> int:
    """Tokens that the model takes, as lm-eval finds it out."""
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(loaded.network.config, loaded.tokenizer))


def measure_speed(loaded: Loaded, batch_size: int, lengths: Sequence[int]) -> Speed:
    """Time one full batch of prompts, of the middle of the given lengths, and a few generated tokens."""
    length = min(max(sorted(lengths)[len(lengths) // 2], SHORTEST), LONGEST)
    network = loaded.network
    tokens_BT = torch.randint(0, network.config.vocab_size, (batch_size, length), device=network.device)

    @torch.no_grad()
    def score(rows: int) -> float:
        started = time.perf_counter()
        # What lm-eval does with a batch.
        logits = network(tokens_BT[:rows]).logits
        float(torch.log_softmax(logits, dim=-1, dtype=torch.float32)[0, 0, 0])
        return time.perf_counter() - started

    score(1)
    seconds = score(batch_size)
    started = time.perf_counter()
    network.generate(
        tokens_BT[:, :SHORTEST],
        attention_mask=torch.ones_like(tokens_BT[:, :SHORTEST]),
        max_new_tokens=GENERATED,
        min_new_tokens=GENERATED,
        do_sample=False,
        pad_token_id=0,
    )
    generated = batch_size * GENERATED / (time.perf_counter() - started)
    return Speed(tokens_a_second=batch_size * length / seconds, generated_a_second=generated)


def _plan(
    task: EvalTask, context: int, speed: Speed, hub: Hub, options: ScoringOptions, *, recorded: bool
) -> TaskPlan:
    items = task.n if options.limit is None else min(task.n, options.limit * len(task.subtasks))
    requests = max(1, task.requests * items // task.n)
    tokens = requests * _length(task, context)
    generated = requests * task.generated / speed.generated_a_second
    dataset, size, missing, problem, code = None, 0, 0, None, 0
    if options.logiqa_text is not None and task.raw_text is not None:
        dataset = str(options.logiqa_text)
    elif not recorded:
        try:
            located = locate(task, hub)
            dataset, size, missing = located.dataset, located.bytes, located.missing(hub)
        except EvaluationError as error:
            problem, code = str(error), error.exit_code
    if problem is None and 0 < context <= task.generated:
        problem = f"{task.name}: generates {task.generated} tokens and the model's context is {context}"
        code = 2
    return TaskPlan(
        task=task,
        requests=requests,
        tokens=tokens,
        seconds=0.0 if recorded else tokens / speed.tokens_a_second + generated,
        recorded=recorded,
        dataset=dataset,
        bytes=size,
        missing_bytes=missing,
        problem=problem,
        exit_code=code,
    )


def _length(task: EvalTask, context: int) -> int:
    return min(task.tokens_a_request, context)
