"""Learning domain weights as a whole: the same on any ranks, after any stop; files that recipes take."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DOMAINS, TINY_RECIPE, domain_tokens, tiny_tokenizer

from data_prep.token_store import write_store
from reproduce.domains.average import average
from reproduce.domains.learn import Learned, Request, learn
from reproduce.domains.output import write_learned
from reproduce.errors import ExitCode, UserError
from reproduce.recipe import Recipe, load_recipe
from reproduce.recipe.weight_sets import read_weight_set
from reproduce.training.start import Events
from tests.ranks import run_ranks

Cli = Callable[..., tuple[int, str, str]]
ALGORITHMS = ("doremi", "doge")
NOT_REPEATABLE = ("tokens_per_s", "model_flops_per_s", "mfu", "memory_bytes", "seconds")


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    """A recipe without its algorithm."""
    path = tmp_path / "proxy.yaml"
    path.write_text(TINY_RECIPE.replace("strategy: linupper", "strategy: uniform"), encoding="utf-8")
    return path


def recipe_of(path: Path, algorithm: str, *changes: str) -> Recipe:
    return load_recipe(str(path), [f"domains.algorithm={algorithm}", *changes])


def run(
    recipe: Recipe, out: Path, store: Path, *, stop: tuple[str, int] | None = None, **more: object
) -> Learned:
    """Learn; `stop`: a phase and the step after which it is asked to."""

    def events(phase: Recipe) -> Events:
        seen = [0]
        here = stop is not None and phase.name.endswith(stop[0])
        return Events(
            warn=lambda message: None,
            advance=lambda step, line: seen.append(step),
            stop=lambda: 75 if here and stop is not None and seen[-1] >= stop[1] else None,
        )

    learned = learn(Request(recipe=recipe, path=out, data=store, **more), events)  # type: ignore[arg-type]
    if learned.weights is not None:
        write_learned(out, learned.weights)
    return learned


def lines(run_folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in NOT_REPEATABLE} for line in found]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_metrics_and_the_file_say_what_was_learned(
    algorithm: str, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    learned = run(recipe_of(proxy, algorithm), tmp_path / "o", store_path)
    assert learned.weights is not None
    steps = [line for line in lines(tmp_path / "o/round-1/proxy") if line["kind"] == "train"]
    alphas = [list(line["alpha"].values()) for line in steps]  # type: ignore[attr-defined]
    assert all(sum(alpha) == pytest.approx(1, abs=1e-12) and min(alpha) >= 1e-3 / 3 for alpha in alphas)
    mean = [sum(column) / 8 for column in zip(*alphas, strict=True)]
    assert list(learned.weights.weights.values()) == pytest.approx(mean, abs=1e-12)
    assert list(learned.weights.weights) == list(DOMAINS)
    for line in steps:
        assert sum(line["weight_share"].values()) == pytest.approx(1, abs=1e-6)  # type: ignore[attr-defined]
        missing = set(line["missing_domains"])  # type: ignore[call-overload]
        present = {d: a for d, a in line["alpha"].items() if d not in missing}  # type: ignore[attr-defined]
        shares = {d: a / sum(present.values()) for d, a in present.items()}
        assert {d: line["weight_share"][d] for d in present} == pytest.approx(shares, abs=1e-6)  # type: ignore[index]
    assert read_weight_set(tmp_path / "o/weights.yaml") == learned.weights
    assert [p.weights for p in learned.weights.rounds[0].history] == [tuple(a) for a in alphas]
    assert (tmp_path / "o/weights.svg").read_text().count("<path") > 5
    assert (tmp_path / "o/weights.png").read_bytes().startswith(b"\x89PNG")


STOPS = {
    "doremi": [("round1_reference", 2), ("round1_proxy", 1), ("round1_proxy", 5), ("round2_proxy", 4)],
    "doge": [("round1_proxy", 1), ("round1_proxy", 5)],
}


@pytest.mark.parametrize(
    ("algorithm", "stops"),
    [
        *STOPS.items(),
        *(
            pytest.param(algorithm, [stop], marks=pytest.mark.slow)
            for algorithm, stops in STOPS.items()
            for stop in stops
        ),
    ],
    ids=str,
)
def test_stopped_anywhere_and_continued_is_the_same_to_the_byte(
    algorithm: str, stops: list[tuple[str, int]], proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(proxy, algorithm, "model.dropout=0.1", "train.micro_batch=2")
    rounds = 2 if algorithm == "doremi" else 1
    for stop in stops:
        stopped = run(recipe, tmp_path / "cut", store_path, stop=stop, rounds=rounds)
        assert (stopped.exit_code, stopped.weights) == (75, None)
        assert not (tmp_path / "cut" / "weights.yaml").exists()
    for out in ("whole", "cut"):
        assert run(recipe, tmp_path / out, store_path, rounds=rounds).exit_code == ExitCode.DONE
    for name in ("weights.yaml", "weights.svg", "weights.png", "weights.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for number in range(1, rounds + 1):
        place = f"round-{number}/proxy"
        assert lines(tmp_path / "cut" / place) == lines(tmp_path / "whole" / place)
        model = f"{place}/model/model.safetensors"
        assert (tmp_path / "cut" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


@pytest.mark.parametrize(
    ("algorithm", "world", "samples"),
    [
        ("doremi", 2, 5),
        ("doge", 2, 5),
        *(
            pytest.param(algorithm, world, 6, marks=pytest.mark.slow)
            for algorithm, world in (("doremi", 2), ("doremi", 3), ("doge", 2), ("doge", 4))
        ),
    ],
)
def test_several_ranks_learn_the_weights_of_one(
    algorithm: str, world: int, samples: int, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    """5 samples on 2 ranks, like 6 on 4, leave ranks without a domain, and with shares of different size."""
    changes = (f"domains.algorithm={algorithm}", f"train.global_batch={samples}")
    arguments = ["domains", algorithm, "--recipe", str(proxy), "--data", str(store_path)]
    arguments += [part for change in changes for part in ("--set", change)]
    run_ranks(world, ["-m", "reproduce.cli", *arguments, "--out", str(tmp_path / "many")])
    run(recipe_of(proxy, algorithm, *changes[1:]), tmp_path / "one", store_path)
    one, many = (lines(tmp_path / name / "round-1/proxy") for name in ("one", "many"))
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        if a["kind"] == "train":
            assert b["alpha"] == pytest.approx(a["alpha"], abs=1e-6)
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
    first, other = (read_weight_set(tmp_path / name / "weights.yaml") for name in ("one", "many"))
    assert dict(other.weights) == pytest.approx(dict(first.weights), abs=1e-6)


def test_rounds_hand_their_weights_on_and_end_when_nothing_moves(
    proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    learned = run(recipe_of(proxy, "doremi"), tmp_path / "o", store_path, rounds=2)
    assert learned.weights is not None
    first, second = learned.weights.rounds
    assert dict(first.reference_weights) == pytest.approx(dict.fromkeys(DOMAINS, 1 / 3))
    assert second.reference_weights == first.weights
    assert load_recipe(str(tmp_path / "o/round-2/reference/recipe.yaml")).data.domain_weights == first.weights
    assert learned.weights.weights == second.weights
    # eta = 1e-6 moves nothing: one round is enough, however many were asked for.
    still = run(recipe_of(proxy, "doremi", "domains.eta=1e-6"), tmp_path / "still", store_path, rounds=5)
    assert still.weights is not None
    assert len(still.weights.rounds) == 1


def test_a_given_reference_takes_the_place_of_a_trained_one(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    plain = ("--recipe", proxy, "--data", store_path)
    assert reweight("train", *plain, "--out", tmp_path / "ref")[0] == 0
    learns = ("--set", "domains.algorithm=doremi")
    code, _, err = reweight(
        "domains", "doremi", *plain, *learns, "--reference", tmp_path / "ref", "--out", tmp_path / "a"
    )
    assert code == 0, err
    assert reweight("domains", "doremi", *plain, *learns, "--out", tmp_path / "b")[0] == 0
    one, two = (read_weight_set(tmp_path / name / "weights.yaml") for name in ("a", "b"))
    assert one.weights == two.weights  # the reference that it trains itself is this very run
    assert not (tmp_path / "a/round-1/reference").exists()
    # Another reference is another result: refused, finished or not.
    assert reweight("train", *plain, "--seed", "7", "--out", tmp_path / "other")[0] == 0
    code, _, err = reweight(
        "domains", "doremi", *plain, *learns, "--reference", tmp_path / "other", "--out", tmp_path / "a"
    )
    assert (code, err.strip().count("\n")) == (5, 0)
    assert "reference_sha256" in err


def test_a_recipe_takes_the_file_and_refuses_it_on_other_data(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    run(recipe_of(proxy, "doge"), tmp_path / "o", store_path)
    weights = tmp_path / "o/weights.yaml"
    plain = ("train", "--recipe", proxy, "--set", f"data.domain_weights={weights}")
    assert reweight(*plain, "--data", store_path, "--out", tmp_path / "run")[0] == 0
    trained = load_recipe(str(tmp_path / "run/recipe.yaml"))
    assert trained.data.domain_weights == read_weight_set(weights).weights
    tokens = {
        split: {d: [domain_tokens(d, 3000, 1)] for d in (*DOMAINS[:2],)} for split in ("train", "validation")
    }
    write_store(tmp_path / "two", tokens, tokenizer=tiny_tokenizer())
    code, _, err = reweight(*plain, "--data", tmp_path / "two", "--out", tmp_path / "x")
    assert (code, err.strip().count("\n")) == (2, 0)
    assert "tables" in err


BAD = [
    (("domains.target=prosa",), "no domain 'prosa'; there is code, prose, tables"),
    (("reweighting.strategy=linupper",), "reweighting.strategy"),
    (("train.nonfinite=drop_sample",), "train.nonfinite"),
    (("parallel.sharding=full",), "parallel.sharding"),
    (("domains.eta=0",), "domains.eta"),
    (("domains.smoothing=2",), "domains.smoothing"),
    (("domains.mu=-1",), "domains.mu"),
    (("domains.etta=1",), "did you mean"),
    (("domains.algorithm=dogre",), "doge"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=str)
def test_bad_settings_are_refused_before_anything_is_written(
    changes: tuple[str, ...], said: str, reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    if not any(change.startswith("domains.algorithm") for change in changes):
        changes = ("domains.algorithm=doge", *changes)
    sets = [part for change in changes for part in ("--set", change)]
    code, out, err = reweight(
        "domains", "doge", "--recipe", proxy, "--data", store_path, *sets, "--out", tmp_path / "o"
    )
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_one_domain_has_nothing_to_weigh(reweight: Cli, proxy: Path, tmp_path: Path) -> None:
    tokens = {split: {"prose": [domain_tokens("prose", 3000, 1)]} for split in ("train", "validation")}
    write_store(tmp_path / "one", tokens, tokenizer=tiny_tokenizer())
    for algorithm in ALGORITHMS:
        code, _, err = reweight(
            "domains", algorithm, "--recipe", proxy, "--data", tmp_path / "one", "--out", tmp_path / "o",
            "--set", f"domains.algorithm={algorithm}",
        )  # fmt: skip
        assert (code, err.strip().count("\n")) == (2, 0)
        assert "at least two" in err
        assert not (tmp_path / "o").exists()


def test_a_reference_of_another_tokenizer_or_none_at_all_is_refused(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    learns = ("domains", "doremi", "--recipe", proxy, "--set", "domains.algorithm=doremi", "--data")
    code, _, err = reweight(*learns, store_path, "--reference", tmp_path / "nowhere", "--out", tmp_path / "o")
    assert (code, err.strip().count("\n")) == (3, 0)
    assert reweight("train", "--recipe", proxy, "--data", store_path, "--out", tmp_path / "ref")[0] == 0
    facts = json.loads((tmp_path / "ref/provenance.json").read_text())
    (tmp_path / "ref/provenance.json").write_text(json.dumps({**facts, "tokenizer_sha256": "1" * 64}))
    code, _, err = reweight(*learns, store_path, "--reference", tmp_path / "ref", "--out", tmp_path / "o")
    assert (code, err.strip().count("\n")) == (2, 0)
    assert "another tokenizer" in err
    assert not (tmp_path / "o").exists()


def test_a_target_that_is_never_drawn_is_refused(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    sets = ["domains.algorithm=doge", "domains.target=code"]
    sets += [f"data.domain_weights.{domain}={float(domain != 'code')}" for domain in DOMAINS]
    given = [part for change in sets for part in ("--set", change)]
    code, _, err = reweight(
        "domains", "doge", "--recipe", proxy, "--data", store_path, *given, "--out", tmp_path / "o"
    )
    assert (code, err.strip().count("\n")) == (2, 0)
    assert "gives the target 'code' no weight" in err


def test_each_command_takes_its_own_recipes(reweight: Cli, proxy: Path, store_path: Path) -> None:
    code, _, err = reweight("domains", "doge", "--recipe", proxy, "--data", store_path)
    assert (code, "has no section domains" in err) == (2, True)
    algorithm = ("--set", "domains.algorithm=doremi")
    code, _, err = reweight("domains", "doge", "--recipe", proxy, *algorithm)
    assert (code, "reweight domains doremi" in err) == (2, True)
    code, _, err = reweight("train", "--recipe", proxy, *algorithm, "--data", store_path)
    assert (code, "learns domain weights" in err) == (2, True)


def test_dry_run_states_the_gradients_memory_and_writes_nothing(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    base = ("--recipe", proxy, "--data", store_path, "--out", tmp_path / "o", "--dry-run", "--json")
    code, out, _ = reweight("domains", "doge", *base, "--set", "domains.algorithm=doge")
    assert code == 0
    (phase,) = json.loads(out)["phases"]
    assert phase["added_bytes"] == 3 * 4 * phase["parameters"]
    code, out, _ = reweight(
        "domains", "doge", *base, "--set", "domains.algorithm=doge", "--set", "domains.gradients_on=host"
    )
    (away,) = json.loads(out)["phases"]
    assert (away["added_bytes"], away["host_bytes"]) == (0, phase["added_bytes"])
    assert phase["memory_bytes"] - away["memory_bytes"] == phase["added_bytes"]
    code, out, _ = reweight("domains", "doremi", *base, "--set", "domains.algorithm=doremi", "--rounds", "2")
    names = [each["phase"] for each in json.loads(out)["phases"]]
    assert names == ["round 1: reference", "round 1: proxy", "round 2: reference", "round 2: proxy"]
    reference, proxied = json.loads(out)["phases"][:2]
    assert proxied["flops"] == pytest.approx(4 / 3 * reference["flops"])
    assert not (tmp_path / "o").exists()


def test_the_mean_over_seeds_and_what_has_none(
    reweight: Cli, proxy: Path, store_path: Path, tmp_path: Path
) -> None:
    for seed in (1, 2):
        run(load_recipe(str(proxy), ["domains.algorithm=doge"], seed), tmp_path / f"s{seed}", store_path)
    paths = [tmp_path / f"s{seed}/weights.yaml" for seed in (1, 2)]
    code, out, _ = reweight("domains", "average", *paths, "--out", tmp_path / "mean.yaml")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "mean.yaml"))
    sets = [read_weight_set(path) for path in paths]
    mean = read_weight_set(tmp_path / "mean.yaml")
    assert mean.seeds == (1, 2)
    assert mean.tokenizer_sha256 == sets[0].tokenizer_sha256
    for domain in DOMAINS:
        assert mean.weights[domain] == pytest.approx(sum(s.weights[domain] for s in sets) / 2, abs=1e-15)
    with pytest.raises(UserError, match="there twice"):
        average([sets[0], sets[0]], "x")
    with pytest.raises(UserError, match="at least two"):
        average(sets[:1], "x")
    run(load_recipe(str(proxy), ["domains.algorithm=doge", "domains.mu=1"], 3), tmp_path / "s3", store_path)
    with pytest.raises(UserError, match="differ in settings"):
        average([sets[0], read_weight_set(tmp_path / "s3/weights.yaml")], "x")


def test_sets_side_by_side(reweight: Cli) -> None:
    code, out, err = reweight("domains", "show")
    assert code == 0
    assert all(name in out for name in ("doge", "doremi", "doge_c4_cc_exchanged", "0.2690", "0.2140"))
    assert "as the paper's GPT-2 code applies them" in err
    code, out, _ = reweight("domains", "show", "doge", "--json")
    (shown,) = json.loads(out)
    assert shown["weights"]["c4"] == 0.269
    code, _, err = reweight("domains", "show", "dogge")
    assert (code, err.strip().count("\n")) == (2, 0)


def test_the_run_folder_of_a_proxy_reads_back(proxy: Path, store_path: Path, tmp_path: Path) -> None:
    """Its recipe.yaml is complete; the history of a file cut short is refused."""
    recipe = recipe_of(proxy, "doge")
    run(recipe, tmp_path / "o", store_path)
    folder = tmp_path / "o/round-1/proxy"
    again = load_recipe(str(folder / "recipe.yaml"))
    assert again.domains == recipe.domains
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole.replace('"average_alpha"', '"gone"'))
    with pytest.raises(UserError, match="no domain weights that can be read"):
        run(recipe, tmp_path / "o", store_path)
    assert (folder / "results.json").exists()
