"""Sets of domain weights: what is read, what is refused in one line, and what they are bound to."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.token_store import TokenStore
from data_prep.tokenizers import GPT2_DIGEST
from reproduce.errors import RecipeError
from reproduce.recipe import load_recipe, recipe_as_yaml
from reproduce.recipe.weight_sets import (
    HistoryPoint,
    Round,
    WeightSet,
    read_weight_set,
    shipped_weight_sets,
    weight_set_text,
)
from reproduce.training.data import open_store, training_batches

TINY_DIGEST = "0" * 64
THREE = {"code": 0.5, "prose": 0.3, "tables": 0.2}

LEARNED = WeightSet(
    name="tiny_doge",
    weights={"code": 1 / 3, "prose": 2 / 3 - 1e-17, "tables": 0.0},
    algorithm="doge",
    source='two proxies: the mean of "both", as one learns them',
    tokenizer="tiny",
    tokenizer_sha256=TINY_DIGEST,
    data_fingerprint="1e5" + "0" * 61,
    recipe="tiny_doge_proxy",
    seeds=(42, 43),
    steps=10_000,
    settings={"domains.mu": 0.01, "domains.target": None, "quoted": "1e5", "on": True, "n": 3, "empty": ""},
    rounds=(
        Round(
            reference_weights=THREE,
            weights={"code": 0.25, "prose": 0.75, "tables": 0},
            history=(
                HistoryPoint(step=0, weights=(1 / 3, 1 / 3, 1 / 3)),
                HistoryPoint(step=100, weights=(1e-17, 1.0, 0.0)),
            ),
        ),
        Round(reference_weights=THREE, weights=THREE),
    ),
)


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RecipeError) as caught:
        read_weight_set(path)
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert said.isprintable()  # one line
    assert len(said) < 1100
    assert str(path) in said
    return said


def test_a_written_set_reads_back_equal_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "other_stem.yaml"
    text = weight_set_text(LEARNED)
    path.write_text(text, encoding="utf-8")
    again = read_weight_set(path)
    assert again == LEARNED
    assert weight_set_text(again) == text
    assert list(again.weights) == ["code", "prose", "tables"]  # the order that history rows are in
    # A row is one line: 0.3333333333333333 three times.
    assert f"      - {{step: 0, weights: [{', '.join(['0.3333333333333333'] * 3)}]}}\n" in text
    assert "data.domain_weights: PATH" in text.splitlines()[0]


def test_weights_alone_are_a_set(tmp_path: Path) -> None:
    path = tmp_path / "my weights.yaml"
    path.write_text("weights: {a: 0.25, b: 0.75}\n", encoding="utf-8")
    found = read_weight_set(path)
    assert found == WeightSet(name="my-weights", weights={"a": 0.25, "b": 0.75})
    assert (found.algorithm, found.tokenizer, found.tokenizer_sha256, found.rounds) == (
        "given",
        None,
        None,
        (),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"code": math.nan, "prose": 0.5}},
        {"weights": {"code": 0.5, "prose": 0.4}},
        {"source": "two\nlines"},
        {"seeds": (-1,)},
        {"settings": {"a": math.inf}},
        {"rounds": (Round(reference_weights={"code": 1.0}, weights=THREE),)},
    ],
)
def test_what_could_not_be_read_back_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a set of weights that can be read back"):
        weight_set_text(replace(LEARNED, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a set of weights is a mapping; write `weights:`"),
        ("- 1\n", "a set of weights is a mapping"),
        ("a: [1\n", "not YAML"),
        ("[" * 3000, "not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        ("weights:\n", "weights: expected a mapping domain: weight, found None"),
        ("weights: {}\n", "weights: expected a mapping domain: weight, found a mapping of 0"),
        ("weights: [0.5, 0.5]\n", "weights: expected a mapping domain: weight, found a list of 2"),
        ("name: x\n", "weights are missing"),
        ("weights: {a: 1}\nwieghts: {a: 1}\n", ":2: wieghts: unknown key; there is weights"),
        ("weights:\n  a: 0.5\n  b: .nan\n", ":3: weights.b: .nan is not a finite number"),
        ("weights:\n  a: 0.5\n  b: .inf\n", ":3: weights.b: .inf is not a finite number"),
        ("weights:\n  a: 1.1\n  b: -0.1\n", ":2: weights.a: expected a share between 0 and 1, found 1.1"),
        ("weights:\n  b: -0.1\n  a: 1.1\n", ":2: weights.b: expected a share between 0 and 1, found -0.1"),
        ("weights: {a: true}\n", "weights.a: expected a share between 0 and 1, found True"),
        ("weights: {a: '1'}\n", "weights.a: expected a share between 0 and 1, found '1'"),
        (f"weights: {{a: {'9' * 200}}}\n", "found a number of many digits"),
        ("weights: {a: {b: 1}}\n", "weights.a: expected a share between 0 and 1, found a mapping of 1"),
        # 0.7 + 0.2 = 0.9; 0.6 + 0.402 = 1.002, 0.002 beyond.
        ("weights: {a: 0.7, b: 0.2}\n", "they sum to 0.9, not to 1 within 0.001; divide each by that"),
        ("weights: {a: 0.6, b: 0.402}\n", "they sum to 1.002, not to 1"),
        ("weights: {a: 0, b: 0}\n", "they sum to 0, not to 1"),
        ('weights: {"a\\e[2J": 1}\n', r"'a\x1b[2J' is not a domain's name"),
        ("weights: {../a: 1}\n", "'../a' is not a domain's name"),
        ("weights: {a: 0.5, a: 0.5}\n", "given twice"),
        ("weights: {1: 1}\n", "a key is a name"),
        ("weights: &w {a: 1}\nsettings: *w\n", "YAML aliases are not read"),
        ("weights: !!python/object/apply:os.system {a: 1}\n", "is not read here"),
        ("weights: {a: 1}\nname: ../x\n", "name: '../x' is not a name"),
        ('weights: {a: 1}\nsource: "x\\ny"\n', "source: expected one printable line of text"),
        ("weights: {a: 1}\nsource: 3\n", "source: expected one printable line of text, found 3"),
        ("weights: {a: 1}\ntokenizer_sha256: abc\n", "tokenizer_sha256: expected a sha256 of 64 hex digits"),
        ("weights: {a: 1}\nseeds: 3\n", "seeds: expected a list"),
        ("weights: {a: 1}\nseeds: [true]\n", "seeds.0: expected a whole number >= 0, found True"),
        ("weights: {a: 1}\nsteps: 0\n", "steps: expected a whole number >= 1, found 0"),
        ("weights: {a: 1}\nsettings: {x: [1]}\n", "settings.x: expected one value, found a list of 1"),
        (
            "weights: {a: 1}\nrounds: [3]\n",
            "rounds.0: expected a mapping of reference_weights, weights, history",
        ),
        ("weights: {a: 1}\nrounds: [{weights: {a: 1}}]\n", "rounds.0.reference_weights: missing"),
        (
            "weights: {a: 1}\nrounds: [{weights: {b: 1}, reference_weights: {a: 1}}]\n",
            "rounds.0.weights: its domains are not those of the set, a; name each",
        ),
    ],
)
def test_a_bad_set_is_refused_in_one_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in refusal(tmp_path / "w.yaml", text)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ("{step: 2, weights: [0.5, 0.5]}, {step: 2, weights: [1, 0]}", "history.1.step: 2 follows 2"),
        ("{step: 1, weights: [1]}", "history.0.weights: 1 numbers for 2 domains; give each"),
        ("{step: 1, weights: [0.5, 0.4]}", "history.0.weights: they sum to 0.9, not to 1"),
        ("{weights: [0.5, 0.5]}", "history.0.step: expected a whole number >= 0, found None"),
        ("{step: 1}", "history.0.weights: expected a list of at most 20,000, found None"),
    ],
)
def test_a_bad_history_is_refused_in_one_line(tmp_path: Path, points: str, expected: str) -> None:
    half = "{a: 0.5, b: 0.5}"
    text = f"weights: {half}\nrounds: [{{weights: {half}, reference_weights: {half}, history: [{points}]}}]\n"
    assert f":2: rounds.0.{expected}" in refusal(tmp_path / "w.yaml", text)


def test_files_that_are_no_sets(tmp_path: Path) -> None:
    start = time.monotonic()
    for size in (1_000_001, 1 << 34):
        with (tmp_path / "huge.yaml").open("wb") as huge:
            huge.truncate(size)  # a sparse file: nothing of it may be read
        with pytest.raises(RecipeError, match=r"huge.yaml: [0-9,]+ bytes, and a set of weights has at most"):
            read_weight_set(tmp_path / "huge.yaml")
    assert time.monotonic() - start < 5
    many = "weights:\n" + "".join(f"  d{n}: 0.001\n" for n in range(1001))
    assert "weights: 1,001 domains; a set has at most 1,000" in refusal(tmp_path / "many.yaml", many)
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "not an ordinary file")):
        with pytest.raises(RecipeError, match=reason):
            read_weight_set(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_weight_set(Path("x" * 5000 + ".yaml"))


def test_shipped_sets_are_the_published_digits() -> None:
    found = {name: read_weight_set(path) for name, path in shipped_weight_sets().items()}
    assert {name: each.name for name, each in found.items()} == {name: name for name in found}
    printed = {
        "doge": (0.088, 0.045, 0.269, 0.214, 0.07, 0.166, 0.148),
        "doremi": (0.04235, 0.08201, 0.381, 0.1141, 0.0654, 0.0847, 0.2305),
        "doremi_10k": (0.08205, 0.02007, 0.01395, 0.2961, 0.294, 0.09507, 0.1987),
    }
    domains = ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia")
    for name, numbers in printed.items():
        assert dict(found[name].weights) == dict(zip(domains, numbers, strict=True))
    assert {name: (each.algorithm, each.steps) for name, each in found.items()} == {
        "doge": ("doge", 10_000),
        "doge_c4_cc_exchanged": ("doge", 10_000),
        "doremi": ("doremi", 50_000),
        "doremi_10k": ("doremi", 10_000),
        "doremi_c4_cc_exchanged": ("doremi", 50_000),
    }
    # All were learned with GPT-2's vocabulary, whose digest data_prep knows.
    assert {(each.tokenizer, each.tokenizer_sha256) for each in found.values()} == {("gpt2", GPT2_DIGEST)}


def problem(recipe: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(recipe), overrides)
    assert len(caught.value.lines) == 2
    return caught.value.lines[1]


def test_a_set_is_for_its_own_tokenizer() -> None:
    said = problem("gpt2_nano_uniform", "data.domain_weights=doge")
    assert said == (
        "  --set data.domain_weights=doge: data.domain_weights: 'doge' was learned with tokenizer gpt2, and "
        "data.tokenizer is bpe:4096; learn weights on this one with `reweight domains`, or give the numbers "
        "themselves, as domain: weight"
    )
    numbers = [f"data.domain_weights.{name}=0.5" for name in ("c4", "cc")]
    assert load_recipe("gpt2_nano_uniform", numbers).data.weights_tokenizer_sha256 is None


def test_a_bad_set_is_a_problem_of_the_recipe_that_names_it(recipe_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("weights: {code: 0.5}\n", encoding="utf-8")
    said = problem(recipe_path, f"data.domain_weights={path}")
    assert f"data.domain_weights: {path}:1: weights: they sum to 0.5, not to 1 within 0.001" in said
    assert "cannot be read: No such file" in problem(recipe_path, f"data.domain_weights={tmp_path}/no.yaml")


@pytest.fixture
def set_path(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        path = tmp_path / "learned.yaml"
        path.write_text(weight_set_text(replace(LEARNED, **changes)), encoding="utf-8")  # type: ignore[arg-type]
        return path

    return write


def test_a_recipe_remembers_what_its_weights_are_bound_to(
    recipe_path: Path, set_path: Callable[..., Path]
) -> None:
    recipe = load_recipe(str(recipe_path), [f"data.domain_weights={set_path()}"])
    assert recipe.data.domain_weights == dict(LEARNED.weights)
    assert recipe.data.weights_tokenizer_sha256 == TINY_DIGEST
    own = recipe_path.with_name("recipe.yaml")
    own.write_text(recipe_as_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(own)) == recipe
    # Whoever leaves the set must say so; validation changes no value.
    for change in ("data.domain_weights=uniform", "data.domain_weights.code=0.9"):
        assert "which data.domain_weights no longer is; set it to null" in problem(own, change)
        load_recipe(str(own), [change, "data.weights_tokenizer_sha256=null"])
    # A set by hand after another, and one that binds nothing.
    unbound = load_recipe(
        str(own), [f"data.domain_weights={set_path(tokenizer=None, tokenizer_sha256=None)}"]
    )
    assert unbound.data.weights_tokenizer_sha256 is None
    own.write_text(recipe_as_yaml(unbound), encoding="utf-8")
    rebound = load_recipe(str(own), [f"data.domain_weights={set_path()}"])
    assert rebound == recipe


def test_a_store_of_another_tokenizer_or_other_domains_is_refused(
    recipe_path: Path, set_path: Callable[..., Path], store: TokenStore, store_path: Path
) -> None:
    fits = load_recipe(str(recipe_path), [f"data.domain_weights={set_path()}"])
    # tables is named, with weight 0: the shares are 1/3, 2/3 and 0 (domains in order of names).
    assert training_batches(open_store(fits, store_path), fits).probabilities_K.tolist() == pytest.approx(
        [1 / 3, 2 / 3, 0]
    )
    named = f"data.domain_weights={set_path(tokenizer_sha256='a' * 64)}"
    other = load_recipe(str(recipe_path), [named])
    with pytest.raises(
        RecipeError, match=r"both are called tiny; learn weights on this store .*, or use"
    ) as caught:
        open_store(other, store_path)
    assert (caught.value.exit_code, len(caught.value.lines)) == (2, 1)
    # The remedy works.
    free = load_recipe(str(recipe_path), [named, "data.weights_tokenizer_sha256=null"])
    assert training_batches(open_store(free, store_path), free).probabilities_K[1] == pytest.approx(2 / 3)

    two = set_path(weights={"code": 0.5, "prose": 0.5}, rounds=())
    short = load_recipe(str(recipe_path), [f"data.domain_weights={two}"])
    with pytest.raises(
        RecipeError, match=r"learned on the domains code, prose, and .* has code, prose, tables;"
    ):
        training_batches(store, short)
    free = load_recipe(str(recipe_path), [f"data.domain_weights={two}", "data.weights_tokenizer_sha256=null"])
    assert training_batches(store, free).probabilities_K.tolist() == [0.5, 0.5, 0]


def test_a_file_is_found_beside_the_recipe_that_names_it(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe_path.parent / "mine.yaml").write_text("weights: {code: 0.5, prose: 0.3, tables: 0.2}")
    text = recipe_path.read_text()
    recipe_path.write_text(text.replace("tokenizer: tiny", "tokenizer: tiny, domain_weights: mine.yaml"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(str(recipe_path)).data.domain_weights == THREE
    # Where the command runs goes first, and is all that --set means.
    Path("mine.yaml").write_text("weights: {code: 1.0, prose: 0.0, tables: 0.0}")
    assert load_recipe(str(recipe_path)).data.domain_weights == {"code": 1.0, "prose": 0.0, "tables": 0.0}
    Path("mine.yaml").unlink()
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(recipe_path), ["data.domain_weights=mine.yaml"])
