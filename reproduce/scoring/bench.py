"""What `reweight eval` costs beside lm-eval's own command line: whole processes, run in turn, equal numbers.

Start-up is most of a short run and little of a long one. So both also score a single item of each task, and
what a run takes beyond that is compared too. No torch here.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.suites import EvalTask
from reproduce.errors import DataError, UserError, one_line
from reproduce.scoring.bench_numbers import Numbers, our_numbers, their_numbers
from reproduce.training.bench_ratios import Clock, Seconds, Verdict, median_interval

OURS, THEIRS = "reweight eval", "lm_eval"
AT_MOST = 1.05
"""Target for a whole run: ours over theirs."""

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    OURS: ("-m", "reproduce.cli", "eval"),
    THEIRS: ("-m", "lm_eval", "run"),
}
"""Arguments of Python that start either."""

LEAST_LIMIT = 2
"""With one item a task, nothing is left beyond start-up."""


class RunFailedError(UserError):
    """A run that was to be measured failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        """`exit_code` is that of `reweight bench eval`."""
        self.exit_code = exit_code
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both score."""

    model: Path
    """Hugging Face folder."""
    suite: str
    tasks: tuple[EvalTask, ...]
    """At least one, all with the same number of shots."""
    limit: int | None
    """First items of each task; None: all."""
    batch_size: int
    device: str
    """cpu or cuda."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process, from its start to its end."""

    seconds: Seconds
    """By the wall clock; and of the processors, all its threads and children together."""
    numbers: Numbers


@dataclass(frozen=True, kw_only=True)
class Round:
    """The runs of one round, by who ran."""

    whole: Mapping[str, Run]
    start: Mapping[str, Run]
    """With one item a task."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Seconds of ours over seconds of theirs."""

    of: str
    """whole run, start-up, beyond start-up."""
    ours_s: float
    theirs_s: float
    """Medians over the rounds, by the clock that decides."""
    median: float
    low: float
    high: float
    """Smallest and largest of a round."""
    ci_low: float | None
    ci_high: float | None
    """95% interval of the median; None below six rounds."""
    wall_median: float | None
    """The median by the wall clock, whichever clock the rest is by; None where a round was too short."""
    at_most: float | None
    verdict: Verdict | None
    values: tuple[float, ...]
    """One a round."""


def comparable(suite: str, tasks: Sequence[EvalTask]) -> tuple[list[EvalTask], list[EvalTask]]:
    """(tasks that lm-eval's command line loads as shipped, the others).

    Raises:
        UserError: no task is left, or their shots differ: the command line takes one number for all.
    """
    chosen = [task for task in tasks if task.shipped is not None]
    others = [task for task in tasks if task.shipped is None]
    if not chosen:
        raise UserError(f"suite {suite}: lm_eval loads none of these tasks as shipped; choose others")
    shots: dict[int, list[str]] = {}
    for task in chosen:
        shots.setdefault(task.num_fewshot, []).append(task.name)
    if len(shots) > 1:
        groups = "; ".join(f"{number} shots: {', '.join(names)}" for number, names in shots.items())
        raise UserError(
            f"lm_eval takes one --num_fewshot for all tasks; name those of one with --task: {groups}"
        )
    return chosen, others


def check_model(folder: Path) -> None:
    """Refuse what the two would not both take for the same model.

    Raises:
        DataError: not a Hugging Face model folder.
        UserError: a name that lm_eval reads as two arguments.
    """
    if (folder / "recipe.yaml").is_file():
        raise DataError(f"{folder} is a run, which lm_eval cannot read; name the run's {folder / 'model'}")
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} has no config.json; name a folder that save_pretrained has written")
    if any(mark in str(folder.resolve()) for mark in ",="):
        raise UserError(f"{folder.resolve()}: lm_eval's --model_args splits at , and =; rename the folder")


def command_line(who: str, work: Work, limit: int | None, out: Path) -> list[str]:
    """The process that scores the work and leaves its numbers below `out`."""
    # `python -m` looks for modules in the working directory first, where a user's files may have any name.
    here = Path(__file__).resolve().parents[2] == Path.cwd().resolve()
    program = [sys.executable, *([] if here else ["-P"]), *PROGRAMS[who]]
    names = [task.name for task in work.tasks]
    model, batch = str(work.model.resolve()), str(work.batch_size)
    first = [] if limit is None else ["--limit", str(limit)]
    if who == OURS:
        tasks = [f"--task={name}" for name in names]
        # One process, as lm_eval is, however many GPUs there are.
        rest = ["--out", str(out), "--batch-size", batch, "--nproc", "1", "--", model]
        return [*program, "--suite", work.suite, *tasks, *first, *rest]
    given = ["--model", "hf", "--model_args", f"pretrained={model}", "--tasks", ",".join(names)]
    shots = work.tasks[0].num_fewshot
    if shots:
        given += ["--num_fewshot", str(shots)]
    rest = ["--batch_size", batch, "--device", work.device, "--output_path", str(out)]
    return [*program, *given, *first, *rest]


def measure(work: Work, rounds: int, advance: Callable[[int], None] | None = None) -> Iterator[Round]:
    """So many rounds of four runs, in the opposite order every other round; before them two that warm caches.

    Args:
        work: what is scored.
        rounds: how many.
        advance: told how many runs are behind us, of `runs(rounds)`.

    Raises:
        RunFailedError: a run failed; its last line is in the message.
        DataError: a run left no numbers.
    """
    done = 0

    def run(who: str, limit: int | None) -> Run:
        nonlocal done
        found = _run(who, work, limit)
        done += 1
        if advance is not None:
            advance(done)
        return found

    # One item is enough: neither fetches or converts less for it.
    run(OURS, 1)
    run(THEIRS, 1)
    for number in range(rounds):
        order = (THEIRS, OURS) if number % 2 else (OURS, THEIRS)
        start = {who: run(who, 1) for who in order}
        whole = {who: run(who, work.limit) for who in order}
        yield Round(whole=whole, start=start)


def runs(rounds: int) -> int:
    """Processes of so many rounds, with those that warm the caches."""
    return 2 + 4 * rounds


def ratios(rounds: Sequence[Round], clock: Clock) -> list[Ratio]:
    """Ours over theirs, over at least one round.

    The last, beyond start-up, is left out where a whole run did not take longer than one of a single item.
    """
    whole = _turns([each.whole for each in rounds])
    start = _turns([each.start for each in rounds])
    beyond = {who: [w.since(s) for w, s in zip(whole[who], start[who], strict=True)] for who in whole}
    found = [
        _ratio("whole run", whole, clock, AT_MOST),
        _ratio("start-up, one item a task", start, clock),
    ]
    if _values(beyond, clock):
        found.append(_ratio("beyond start-up", beyond, clock))
    return found


def differences(rounds: Sequence[Round]) -> list[str]:
    """One line for each number that is not the same in both, in whichever run; none: all are equal."""
    lines: dict[str, None] = {}
    for one in rounds:
        for runs_of in (one.whole, one.start):
            ours, theirs = runs_of[OURS].numbers, runs_of[THEIRS].numbers
            for key in sorted(ours.keys() | theirs.keys()):
                if ours.get(key) != theirs.get(key):
                    said = [
                        f"{who} {_said(numbers.get(key))}"
                        for who, numbers in ((OURS, ours), (THEIRS, theirs))
                    ]
                    lines[f"{' '.join(key)}: {', '.join(said)}"] = None
    return list(lines)


def _run(who: str, work: Work, limit: int | None) -> Run:
    with tempfile.TemporaryDirectory(prefix="reweight-bench-") as scratch:
        out, log = Path(scratch) / "out", Path(scratch) / "log"
        command = command_line(who, work, limit, out)
        with log.open("wb") as stream:
            before = _clocks()
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
            ).returncode
            seconds = _clocks().since(before)
        if code != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            # A library's exit code says nothing in our terms.
            raise RunFailedError(
                f"{who} ended with code {code}; run it alone to see more: {one_line(last, 400)}",
                code if who == OURS and code > 0 else 1,
            )
        numbers = our_numbers(work.tasks, out) if who == OURS else their_numbers(work.tasks, out)
    return Run(seconds=seconds, numbers=numbers)


def _clocks() -> Seconds:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(time.perf_counter(), used.ru_utime + used.ru_stime)


def _turns(rounds: Sequence[Mapping[str, Run]]) -> dict[str, list[Seconds]]:
    return {who: [each[who].seconds for each in rounds] for who in (OURS, THEIRS)}


def _values(seconds: Mapping[str, Sequence[Seconds]], clock: Clock) -> list[float]:
    """Ours over theirs of each round; none where one of them took no time."""
    ours, theirs = ([getattr(turn, clock) for turn in seconds[who]] for who in (OURS, THEIRS))
    if min(ours + theirs) <= 0:
        return []
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def _ratio(
    of: str, seconds: Mapping[str, Sequence[Seconds]], clock: Clock, at_most: float | None = None
) -> Ratio:
    values, wall = _values(seconds, clock), _values(seconds, "wall")
    interval = median_interval(values)
    return Ratio(
        of=of,
        ours_s=statistics.median(getattr(turn, clock) for turn in seconds[OURS]),
        theirs_s=statistics.median(getattr(turn, clock) for turn in seconds[THEIRS]),
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        wall_median=statistics.median(wall) if wall else None,
        at_most=at_most,
        verdict=None if at_most is None else _verdict(interval, at_most),
        values=tuple(values),
    )


def _verdict(interval: tuple[float, float] | None, at_most: float) -> Verdict:
    if interval is None:
        return "unresolved"
    if interval[1] <= at_most:
        return "met"
    return "missed" if interval[0] > at_most else "unresolved"


def _said(value: float | None) -> str:
    return "nothing" if value is None else repr(value)
