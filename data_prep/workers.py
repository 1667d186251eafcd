"""The processes that do the tasks: spawned, told to stop by an event, and gone with their parent."""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from data_prep.errors import StorageError
from data_prep.units import Counts, Task, Tick, Workshop, do_task

POLL_S = 0.2


class Stopped(Exception):  # noqa: N818 - not an error: another task failed, or the user interrupted
    """Raised inside a task to make it clean up and end."""


def do_tasks(shop: Workshop, tasks: list[Task], workers: int, tick: Tick) -> None:
    """Do every task, in this process or in `workers` spawned ones. The first error stops them all.

    Committed files stay. A caller with workers > 1 must be importable (`if __name__ == "__main__"`).
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            do_task(shop, task, tick)
        return
    context = multiprocessing.get_context("spawn")
    shared, stop = context.Array("q", 4), context.Event()
    size = min(workers, len(tasks))
    pool = ProcessPoolExecutor(size, context, _start_worker, (shop, shared, stop))
    try:
        _drive(pool, tasks, size, shared, tick)
    except BrokenProcessPool:
        raise StorageError(
            "a worker process was killed, most likely for lack of memory; finished files are kept: "
            "run again with fewer --workers"
        ) from None
    finally:
        # Workers notice the event within a batch, remove their temporary files and end.
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _drive(pool: ProcessPoolExecutor, tasks: list[Task], size: int, shared: Any, tick: Tick) -> None:
    waiting = iter(tasks)
    running: set[Future[None]] = set()
    told = Counts()
    while True:
        # Two a worker: none waits for work, and a failure leaves little to cancel.
        while len(running) < 2 * size and (task := next(waiting, None)) is not None:
            running.add(pool.submit(_work, task))
        if not running:
            break
        finished, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        with shared.get_lock():
            now = Counts(input_bytes=shared[0], documents=shared[1], tokens=shared[2], text_bytes=shared[3])
        tick(
            Counts(
                input_bytes=now.input_bytes - told.input_bytes,
                documents=now.documents - told.documents,
                tokens=now.tokens - told.tokens,
                text_bytes=now.text_bytes - told.text_bytes,
            )
        )
        told = now


_work_tick: Tick
_work_shop: Workshop


def _start_worker(shop: Workshop, shared: Any, stop: Any) -> None:
    """Set up one worker process; module globals are the only state an executor's worker can keep."""
    global _work_tick, _work_shop
    # The parent decides what an interrupt means, and tells through the event.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def tick(counts: Counts) -> None:
        if stop.is_set():
            raise Stopped
        with shared.get_lock():
            shared[0] += counts.input_bytes
            shared[1] += counts.documents
            shared[2] += counts.tokens
            shared[3] += counts.text_bytes

    _work_shop, _work_tick = shop, tick


def _die_with_parent() -> None:
    # A killed parent leaves workers waiting for ever, or writing beside a rerun.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _work(task: Task) -> None:
    with contextlib.suppress(Stopped):
        do_task(_work_shop, task, _work_tick)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
