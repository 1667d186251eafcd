"""`reweight eval`: scores of runs and models. What they are scored on decides which module does it."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import click

from eval.suites import EvalTask, load_suites
from reproduce.cli.console import UserPath, json_option, note

SUITES = ("perplexity", *load_suites())


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line of `reweight eval`."""

    runs: tuple[Path, ...]
    suite: str
    tasks: tuple[str, ...]
    which: str
    data: Path | None
    out: Path | None
    limit: int | None
    batch_size: int
    fewshot_seed: int
    logiqa_text: Path | None
    irt_file: Path | None
    irt_sha256: str | None
    nproc: int | None
    as_json: bool

    def chosen(self) -> list[EvalTask]:
        """The suite's tasks, or those of them that --task names.

        Raises:
            click.UsageError: --task names one that the suite does not have.
        """
        suite = load_suites()[self.suite]
        names = [task.name for task in suite.tasks]
        for name in self.tasks:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
                raise click.UsageError(f"--task {name[:60]}: suite {self.suite} has no such task; {hint}")
        return [task for task in suite.tasks if not self.tasks or task.name in self.tasks]

    def arguments(self) -> list[str]:
        """The command line of one rank."""
        given = {
            "--checkpoint": self.which,
            "--data": self.data,
            "--out": self.out,
            "--limit": self.limit,
            "--batch-size": self.batch_size,
            "--fewshot-seed": self.fewshot_seed,
            "--logiqa-text": self.logiqa_text,
            "--irt-file": self.irt_file,
            "--irt-sha256": self.irt_sha256,
        }
        options = [f"{name}={value}" for name, value in given.items() if value is not None]
        tasks = [f"--task={name}" for name in self.tasks]
        flags = ["--json"] if self.as_json else []
        return [f"--suite={self.suite}", *options, *tasks, *flags, "--", *map(str, self.runs)]


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=UserPath())
@click.option("--suite", type=click.Choice(SUITES), default="perplexity", show_default=True)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--checkpoint", "which", default="last", show_default=True, metavar="last|all|STEP")
@click.option("--data", type=UserPath(file_okay=False), help="Token store.")
@click.option("--out", type=UserPath(file_okay=False), help="Where scores of a model folder go.")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), help="Only the first N items, or windows.")
@click.option("--batch-size", type=click.IntRange(1, 4096), default=8, show_default=True, help="Requests.")
@click.option("--fewshot-seed", type=click.IntRange(0, 2**32 - 1), default=1234, show_default=True)
@click.option("--nproc", type=click.IntRange(1, 4096), help="Processes; default: one a GPU, else one.")
@click.option("--logiqa-text", type=UserPath(file_okay=False), help="Folder of LogiQA's published texts.")
@click.option("--irt-file", type=UserPath(dir_okay=False), help="tinyBenchmarks.pkl, for gp-IRT.")
@click.option("--irt-sha256", metavar="HEX", help="Its digest, without which it is not read.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched and how long it would take.")
@json_option
def command(
    runs: tuple[Path, ...],
    suite: str,
    tasks: tuple[str, ...],
    which: str,
    data: Path | None,
    out: Path | None,
    limit: int | None,
    batch_size: int,
    fewshot_seed: int,
    nproc: int | None,
    logiqa_text: Path | None,
    irt_file: Path | None,
    irt_sha256: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Score runs, their checkpoints, or any Hugging Face model folder.

    perplexity: log-perplexity per domain, in nats, on the store's fixed held-out windows. The other suites
    are the paper's question tasks, through lm-eval: gpt2_qa (5 shots), llama_lur, llama_qa.

    `last` is the exported model; its scores go into RUN/results.json, those of a model folder into
    evaluations/NAME/results.json. Run the same command again for the tasks that failed: what is there stays.
    Each task also leaves a record in RUN/evaluations; --checkpoint all draws scores against steps there.

    \b
    Examples:
      reweight eval runs/gpt2_nano_linupper/seed-42
      reweight eval runs/gpt2_nano_linupper/seed-42 --checkpoint 400
      reweight eval runs/gpt2_mini_linupper/seed-42 --suite gpt2_qa --dry-run
      reweight eval runs/gpt2_mini_linupper/seed-42 --suite gpt2_qa
      reweight eval my-model --suite llama_lur --task arc_easy --task copa --limit 100 --json
    """
    asked = Asked(
        runs=runs,
        suite=suite,
        tasks=tasks,
        which=which,
        data=data,
        out=out,
        limit=limit,
        batch_size=batch_size,
        fewshot_seed=fewshot_seed,
        logiqa_text=logiqa_text,
        irt_file=irt_file,
        irt_sha256=irt_sha256,
        nproc=nproc,
        as_json=as_json,
    )
    if suite == "perplexity":
        _refuse_task_options(asked, dry_run)
        from reproduce.cli.eval_perplexity import evaluate

        return evaluate(runs, which, data, limit, as_json)
    _check(asked)
    if dry_run:
        from reproduce.cli.eval_plan import plan

        return plan(asked)
    from reproduce.training.launch import launched, local_ranks

    if launched(os.environ):
        if nproc is not None:
            raise click.UsageError("--nproc starts processes, and a launcher already did; leave it out")
    elif (ranks := local_ranks(nproc)) > 1:
        from reproduce.training.supervisor import run_locally

        return run_locally(ranks, asked.arguments(), None, note, verb="eval")
    from reproduce.cli.eval_tasks import evaluate as evaluate_tasks

    return evaluate_tasks(asked)


def _refuse_task_options(asked: Asked, dry_run: bool) -> None:
    given = {
        "--task": asked.tasks,
        "--out": asked.out,
        "--nproc": asked.nproc,
        "--logiqa-text": asked.logiqa_text,
        "--irt-file": asked.irt_file,
        "--irt-sha256": asked.irt_sha256,
        "--dry-run": dry_run,
    }
    for option, value in given.items():
        if value:
            raise click.UsageError(f"{option} is for suites of tasks; add --suite {' or '.join(SUITES[1:])}")


def _check(asked: Asked) -> None:
    """Refuse at once what could not end well."""
    asked.chosen()
    if asked.out is not None and len(asked.runs) > 1:
        raise click.UsageError("--out takes the scores of one model; name one at a time")
    if asked.irt_file is not None and asked.limit is not None:
        raise click.UsageError("gp-IRT needs all 100 items of a tiny task; leave --limit or --irt-file out")
    if (asked.irt_file is None) != (asked.irt_sha256 is None):
        raise click.UsageError("--irt-file and --irt-sha256 go together: an unpinned pickle is never read")
