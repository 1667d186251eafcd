"""What surrounds a call of lm-eval: generators that are seeded and given back, libraries that keep quiet."""

import functools
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import lm_eval.api.task
import numpy as np
import torch
from transformers.utils import logging as logging_of_transformers

from eval.records import Seeds


def quiet_libraries() -> None:
    """Keep lm-eval, datasets and transformers from writing about what is reported here anyway."""
    task = lm_eval.api.task
    # As lm-eval's own command does: prompts are encoded one at a time, and threads only get in the way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging_of_transformers.set_verbosity_error()
    logging_of_transformers.disable_progress_bar()
    # It shows a bar for every part of a task, and has no switch for that.
    task.tqdm = functools.partial(task.tqdm, disable=True)
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


@contextmanager
def seeded(seeds: Seeds) -> Iterator[None]:
    """Seed every generator, and give each its state back: training may go on with them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random.seed(seeds.random)
    np.random.seed(seeds.numpy)
    torch.manual_seed(seeds.torch)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def without_warnings() -> Iterator[None]:
    """lm-eval warns of every name that its own and a project's folder both hold."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
