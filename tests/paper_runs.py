"""Run folders made by hand, for the tests of comparison and report."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from eval.results import Results, Score, log_perplexity_score, write_results
from reproduce.recipe.loader import load_recipe, recipe_as_dict

DOMAINS = ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia")

# Table 1, GPT2-mini, as printed.
MINI = {
    "uniform": (2.48, 4.21, 4.47, 4.44, 1.84, 2.66, 3.14, 3.32),
    "linupper": (2.49, 4.16, 4.41, 4.38, 1.89, 2.67, 3.12, 3.30),
    "quadratic": (2.48, 4.26, 4.55, 4.53, 1.87, 2.67, 3.17, 3.36),
    "extremes": (2.54, 4.23, 4.47, 4.44, 1.90, 2.74, 3.19, 3.36),
}


UNIFORM_OF = {
    "GPT2-mini": "gpt2_mini_uniform",
    "GPT2-medium": "gpt2_medium_uniform",
    "Llama 1.4B": "llama1b_uniform",
    "Llama 7B": "llama7b_uniform",
}


def mini(strategy: str, shift: float = 0.0) -> dict[str, float]:
    """The paper's GPT2-mini row as log-perplexities, all moved by `shift`."""
    return {name: value + shift for name, value in zip((*DOMAINS, "mean"), MINI[strategy], strict=True)}


def make_recipe(name: str, strategy: str, **changes: object) -> dict[str, object]:
    """A resolved recipe; `changes` replaces values by dotted path with `__` for the dot.

    At the paper's scale it is the shipped one of the model, with that strategy; else a few settings.
    """
    recipe: dict[str, dict[str, object] | object] = {
        "name": name,
        "seed": 0,
        "model": {"family": "gpt2", "layers": 4},
        "data": {"dataset": "slimpajama", "domain_weights": "uniform"},
        "train": {"steps": 600, "global_batch": 32},
        "optimizer": {"lr": 1e-3},
        "reweighting": {"strategy": strategy, "r": 0.4},
        "evaluation": {"every_steps": 300},
        "paper": {"table": "table1", "model": "GPT2-mini", "scale": "reduced"},
    }
    if changes.get("paper__scale") == "paper":
        model = changes.get("paper__model", "GPT2-mini")
        shipped = dict(recipe_as_dict(load_recipe(UNIFORM_OF[str(model)])))
        recipe = shipped | {"name": name, "reweighting": shipped["reweighting"] | {"strategy": strategy}}
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            inner = recipe[section]
            assert isinstance(inner, dict)
            inner[field] = value
        else:
            recipe[section] = value
    return recipe


def make_run(
    root: Path,
    strategy: str,
    seed: int,
    values: Mapping[str, float],
    *,
    name: str | None = None,
    eval_set: str | None = "e" * 64,
    fingerprint: str = "d" * 64,
    step: int | None = None,
    metrics: bool = False,
    scores: Sequence[Score] = (),
    **changes: object,
) -> Path:
    """Write runs/<recipe>/seed-<n>/ with results, recipe and provenance.

    `values`: log-perplexities; `scores`: scores of tasks, besides; `metrics` adds a metrics.jsonl.
    """
    recipe = make_recipe(name or f"nano_{strategy}", strategy, **changes) | {"seed": seed}
    folder = root / str(recipe["name"]) / f"seed-{seed}"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "provenance.json").write_text(
        json.dumps(
            {
                "command": ["reweight", "train", "--recipe", str(recipe["name"])],
                "identity": {"data_fingerprint": fingerprint},
                "data": "data/slimpajama-gpt2",
                "git": {"commit": "c" * 40, "dirty": False},
                "hardware": {"cores": 2},
            }
        )
    )
    train, paper = recipe["train"], recipe["paper"]
    assert isinstance(train, dict)
    assert isinstance(paper, dict)
    steps = train["steps"]
    n = 2857 if paper.get("scale") == "paper" else 128
    perplexities = tuple(
        log_perplexity_score(task, value, stderr=0.01, n=n, version="1") for task, value in values.items()
    )
    results = Results(
        recipe=str(recipe["name"]),
        seed=seed,
        step=steps if step is None else step,
        scores=(*perplexities, *scores),
        eval_set_sha256=eval_set,
    )
    write_results(folder / "results.json", results)
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(metrics_lines(values, seed)))
        (folder / "status.json").write_text(json.dumps({"state": "done", "exit_code": 0, "step": 600}))
    return folder


def paper_scale(**changes: object) -> dict[str, object]:
    """Changes that make make_run's recipe one of GPT2-mini at the paper's scale."""
    return {"paper__scale": "paper", **changes}


# Task -> the metric that the paper printed, shots, items; written out here, apart from eval/suites.yaml.
GPT2_QA = {
    "logiqa": ("acc_norm", 5, 651),
    "logiqa2": ("acc_norm", 5, 1572),
    "sciq": ("acc", 5, 1000),
    "piqa": ("acc", 5, 1838),
}
LLAMA_LUR = {
    "arc_challenge": ("acc_norm", 0, 1172),
    "arc_easy": ("acc", 0, 2376),
    "copa": ("acc", 0, 100),
    "lambada_openai": ("acc", 0, 5153),
    "lambada_standard": ("acc", 0, 5153),
    "mmlu": ("acc", 0, 14042),
    "mnli": ("acc", 0, 9815),
    "mnli_mismatch": ("acc", 0, 9832),
    "rte": ("acc", 0, 277),
    "sst2": ("acc", 0, 872),
    "tinyArc": ("gp_irt", 25, 100),
    "tinyWinogrande": ("gp_irt", 5, 100),
    "winogrande": ("acc", 0, 1267),
}
LLAMA_QA = {
    "boolq": ("acc", 0, 3270),
    "logiqa": ("acc", 0, 651),
    "logiqa2": ("acc", 0, 1572),
    "sciq": ("acc", 0, 1000),
    "social_iqa": ("acc", 0, 1954),
    "triviaqa": ("exact_match", 0, 17944),
}
VERSIONS = {"logiqa2": "0.0", "mmlu": "2", "tinyArc": "0.0", "tinyWinogrande": "0.0"}
VERSIONS |= {"boolq": "2.0", "social_iqa": "0.0", "triviaqa": "3.0"}
"""Of tasks whose version is not 1.0."""
TASKS = {"gpt2_qa": GPT2_QA, "llama_lur": LLAMA_LUR, "llama_qa": LLAMA_QA}


def task_scores(suite: str, percents: str) -> list[Score]:
    """Scores of a suite's tasks as the paper prints them: percents, in the order of the table."""
    values = [float(text) for text in percents.split()]
    return [
        Score(
            suite=suite,
            task=task,
            metric=metric,
            value=value / 100,
            stderr=None if metric == "gp_irt" else 0.01,
            n=n,
            num_fewshot=shots,
            task_version=VERSIONS.get(task, "1.0"),
            requests=4 * n,
            truncated=0,
            shots_kept=float(shots),
            context=512,
            prompt_sha256="a" * 64,
            model_sha256="b" * 64,
            dataset=f"owner/{task}@{'c' * 40}",
            batch_size=8,
            seeds={"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234},
            versions={"lm_eval": "0.4.13"},
        )
        for (task, (metric, shots, n)), value in zip(TASKS[suite].items(), values, strict=True)
    ]


def paper_medium(**changes: object) -> dict[str, object]:
    """Changes that make make_run's recipe one of GPT2-medium at the paper's scale, for Tables 2, 3 and 12."""
    return paper_scale(paper__model="GPT2-medium", **changes)


def paper_llama(size: str, **changes: object) -> dict[str, object]:
    """Changes that make make_run's recipe one of the paper's Llamas at its scale: 1.4B or 7B."""
    return paper_scale(paper__model=f"Llama {size}", **changes)


def three_seeds(root: Path, strategy: str, base: Mapping[str, float], shifts: Mapping[str, float]) -> None:
    """Seeds 0, 1, 2 that differ by -0.5, 0, +0.5 nats; `shifts` is added to the named tasks on top, with a
    seed-dependent wobble of -0.001, 0, +0.001 that does not cancel in pairs."""
    for seed in range(3):
        values = {
            task: value + 0.5 * (seed - 1) + (shifts[task] + 0.001 * (seed - 1) if task in shifts else 0.0)
            for task, value in base.items()
        }
        make_run(root, strategy, seed, values)


def metrics_lines(values: Mapping[str, float], seed: int, steps: int = 600) -> list[str]:
    """A plausible metrics.jsonl: a falling loss, steady weights, three evaluations."""
    lines = []
    for step in range(1, steps + 1):
        loss = 3.0 + 5.0 * math.exp(-step / 100) + 0.01 * math.sin(step + seed)
        train = {
            "kind": "train",
            "step": step,
            "tokens": step * 4096,
            "loss": loss,
            "weighted_loss": loss + 0.1,
            "lr": 1e-3,
            "r": 0.4,
            "grad_norm": 1.0,
            "max_weight": 1.5 + 0.1 * math.sin(step),
            "min_weight": 0.3,
            "ess": 25.0 + math.cos(step),
            "entropy": 3.3,
            "weight_share": {domain: 1 / len(DOMAINS) for domain in DOMAINS},
            "weight_by_loss": {"0.250": 0.6, "0.750": 1.4 if step > steps // 2 else 1.2},
            "tokens_per_s": 1000.0,
        }
        lines.append(json.dumps(train) + "\n")
        if step % (steps // 3) == 0:
            late = {task: value + 2 * (1 - step / steps) for task, value in values.items()}
            evaluation = {"kind": "eval", "step": step, "tokens": step * 4096, "log_perplexity": late}
            lines.append(json.dumps(evaluation | {"n": dict.fromkeys(late, 128)}) + "\n")
    return lines
