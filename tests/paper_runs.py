"""Run folders made by hand, for the tests of comparison and report."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from eval.results import Results, log_perplexity_score, write_results

DOMAINS = ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia")

# Table 1, GPT2-mini, as printed.
MINI = {
    "uniform": (2.48, 4.21, 4.47, 4.44, 1.84, 2.66, 3.14, 3.32),
    "linupper": (2.49, 4.16, 4.41, 4.38, 1.89, 2.67, 3.12, 3.30),
    "quadratic": (2.48, 4.26, 4.55, 4.53, 1.87, 2.67, 3.17, 3.36),
    "extremes": (2.54, 4.23, 4.47, 4.44, 1.90, 2.74, 3.19, 3.36),
}


def mini(strategy: str, shift: float = 0.0) -> dict[str, float]:
    """The paper's GPT2-mini row as log-perplexities, all moved by `shift`."""
    return {name: value + shift for name, value in zip((*DOMAINS, "mean"), MINI[strategy], strict=True)}


def make_recipe(name: str, strategy: str, **changes: object) -> dict[str, object]:
    """A resolved recipe; `changes` replaces values by dotted path with `__` for the dot."""
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
    **changes: object,
) -> Path:
    """Write runs/<recipe>/seed-<n>/ with results, recipe and provenance; `metrics` adds a metrics.jsonl."""
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
    train = recipe["train"]
    assert isinstance(train, dict)
    steps = train["steps"]
    scores = tuple(
        log_perplexity_score(task, value, stderr=0.01, n=128, version="1") for task, value in values.items()
    )
    results = Results(
        recipe=str(recipe["name"]),
        seed=seed,
        step=steps if step is None else step,
        scores=scores,
        eval_set_sha256=eval_set,
    )
    write_results(folder / "results.json", results)
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(metrics_lines(values, seed)))
        (folder / "status.json").write_text(json.dumps({"state": "done", "exit_code": 0, "step": 600}))
    return folder


def paper_scale(**changes: object) -> dict[str, object]:
    """Changes that make make_run's recipe one of GPT2-mini at the paper's scale."""
    return {
        "paper__scale": "paper",
        "train__steps": 20000,
        "train__sequence": 512,
        "model__layers": 12,
        "model__heads": 12,
        "model__width": 768,
        "model__context": 512,
        "data__tokenizer": "gpt2",
        **changes,
    }


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
            "tokens_per_s": 1000.0,
        }
        lines.append(json.dumps(train) + "\n")
        if step % (steps // 3) == 0:
            late = {task: value + 2 * (1 - step / steps) for task, value in values.items()}
            evaluation = {"kind": "eval", "step": step, "tokens": step * 4096, "log_perplexity": late}
            lines.append(json.dumps(evaluation | {"n": dict.fromkeys(late, 128)}) + "\n")
    return lines
