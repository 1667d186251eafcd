"""docs/toy-studies.md and docs/theory.md say what the committed studies say; so does the README's table."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from reproduce.cli.toy_docs import docs
from reproduce.paper.study_blocks import count_blocks, fill
from reproduce.study import STUDY_NAMES, Study
from reproduce.study_file import read_study

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "results" / "toy"
STUDIES: Mapping[str, Study] = {name: read_study(FOLDER / name / "study.json") for name in STUDY_NAMES}
PAGES = ("toy-studies.md", "theory.md")
FOLDERS = [str(FOLDER / name) for name in STUDY_NAMES]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_every_number_is_what_its_study_says(name: str) -> None:
    text = page(name)
    assert count_blocks(text) >= 5
    assert fill(text, STUDIES) == text


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("toy-studies.md", "regression:number:final uniform"),
        ("theory.md", "bounds:number:largest difference"),
    ],
)
def test_a_tampered_number_is_caught(tmp_path: Path, name: str, block: str) -> None:
    text = page(name)
    copy = tmp_path / name
    copy.write_text(text)

    def checked() -> object:
        return docs.main([str(copy), *FOLDERS, "--check"], standalone_mode=False)

    assert checked() == 0
    tampered, times = re.subn(rf"(<!-- study:{block}[^>]*-->)[^<]+", r"\g<1>0.123", text, count=1)
    assert times == 1
    copy.write_text(tampered)
    assert checked() == 8


@pytest.mark.parametrize("name", PAGES)
def test_linked_files_and_headings_exist(name: str) -> None:
    text = page(name)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        assert (ROOT / "docs" / path).exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", page(path or name), flags=re.MULTILINE)
            slugs = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, link


def test_all_figures_of_the_studies_are_shown() -> None:
    text = page("toy-studies.md")
    for name, study in STUDIES.items():
        assert f"study:{name}:findings" in text
        assert f"study:{name}:command" in text
        for figure in study.figures:
            assert f"(results/toy/{name}/{figure.id}.svg)" in text


def test_the_studies_are_those_of_the_default_settings() -> None:
    assert {name: study.command for name, study in STUDIES.items()} == {
        "regression": "reweight toy regression",
        "dro": "reweight toy dro",
        "bounds": "reweight toy bounds",
        "sweep": "reweight toy regression --sweep",
    }


def outcome(study: str, claim: str) -> str:
    (found,) = (each.outcome for each in STUDIES[study].findings if each.claim.startswith(claim))
    return found


def test_the_readme_s_words_are_the_verdicts() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "early; with outliers it then settles above uniform" in readme
    assert outcome("regression", "LinUpper converges fastest") == "only_where"
    assert outcome("regression", "LinUpper ends below the others") == "does_not"
    assert "at the largest one that they bear" in readme
    (diverges,) = (each for each in STUDIES["dro"].findings if "diverges at" in each.claim)
    assert (diverges.outcome, diverges.where) == ("only_where", "at learning rate 0.1")
    assert "hold, and need no w ≤ 2/M" in readme
    for claim in ("Lemma 1", "Theorem 1", "Theorem 2 (m", "Theorem 2 (h", "Theorem 4", "Proposition 1"):
        assert outcome("bounds", claim) == "holds", claim
    assert outcome("bounds", "The bounds need w <= 2/M") == "does_not"
    assert "with each method's own best rate the speed is gone" in readme
    best = STUDIES["sweep"].table("overview")
    for row in best.rows:
        cells = dict(zip(best.columns, row, strict=True))
        own = cells["with"] == "own best learning rate" and str(cells["quantity"]).startswith("steps")
        if own and str(cells["method"]).startswith("linupper"):
            assert float(str(cells["x uniform, median cell"])) >= 1.0
