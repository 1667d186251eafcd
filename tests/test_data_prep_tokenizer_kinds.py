"""Starcoder's and Llama-2's kinds of tokenizer, texts of any length, and where tokenizers come from."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lookalikes
import numpy as np
import prep_inputs
import pytest
from test_data_prep_tokenizers import ADVERSARIAL, every_code_point

from data_prep import engines, longtext, tokenizers
from data_prep.engines import FastEngine
from data_prep.errors import DataError, HubError
from data_prep.schemes import scheme_of
from data_prep.tokenizers import Tokenizer, load_tokenizer

KINDS = ("gpt2", "starcoder", "llama2")

TEXTS = [
    *ADVERSARIAL,
    *lookalikes.STARCODER_TOKENS,
    "<s>",
    "a</s> <s>b</s>",
    "<unk><0x41> <0x0A>",
    "▁a ▁▁b  c▁ d▁",
    "a1 b  22   3\n\n4\t5 ½ ½½  ½x ٣٤٥  Ⅷ",
    "tail of spaces   ",
    "東京都 東東",
    # U+180E was white space until Unicode 6.3; U+11DE9 became a digit in Unicode 17.
    "a  \u180e  \u180e1 \n\u180e",
    "b  \U00011de9  \U00011de9\u3000\U00011de9c  \U00016ff6",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("kinds")
    gpt2 = tokenizers.train_bpe(400, lookalikes.corpus())
    gpt2.save(folder / "gpt2.json")
    lookalikes.starcoder(folder / "starcoder.json")
    lookalikes.llama2(folder / "llama2.json")
    return {kind: load_tokenizer(folder / f"{kind}.json") for kind in KINDS}


def _fast(tokenizer: Tokenizer) -> FastEngine:
    engine = tokenizer._built()
    assert isinstance(engine, FastEngine)
    return engine


def test_end_of_text_and_size_are_those_of_the_layout(made: dict[str, Tokenizer]) -> None:
    known = {kind: (made[kind].end_of_text, made[kind].info.dtype) for kind in KINDS}
    assert known == {"gpt2": (399, "uint16"), "starcoder": (0, "uint16"), "llama2": (2, "uint16")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["fastokens", "tiktoken"])
def test_engines_agree_and_control_tokens_are_text(
    made: dict[str, Tokenizer], kind: str, library: str
) -> None:
    scheme = scheme_of(json.loads(made[kind].document))
    assert scheme is not None
    assert scheme.kind == kind
    if library == "tiktoken" and kind != "gpt2":
        with pytest.raises(ValueError, match="do not order"):
            engines._Tiktoken(scheme)
        return
    raw = {"fastokens": engines._Fastokens, "tiktoken": engines._Tiktoken}[library](scheme)
    engine = FastEngine("fastokens", scheme, raw)
    rng = random.Random(1)
    alphabet = "ab  \n\t'sdmtlrve12½日é東🙂\u0301\u00a0\u0085\u2028\u3000\x1c\x00\ufffd!<|>endoftx▁"
    texts = [*TEXTS, *("".join(rng.choices(alphabet, k=rng.randint(1, 120))) for _ in range(800))]
    (ids, lengths), expected = engine.flat(texts), made[kind].reference().encode_flat(texts)
    assert lengths.tolist() == expected[1].tolist()
    assert ids.tolist() == expected[0].tolist()
    controls = [token["id"] for token in scheme.document["added_tokens"]]
    assert not np.isin(ids, controls).any()


def test_llama2_ids_by_hand(tmp_path: Path) -> None:
    # Ids: <unk> 0, <s> 1, </s> 2, byte b is 3 + b, then ▁ 259, a 260, b 261, ▁a 262, ▁▁ 263, and what byte
    # and control tokens are spelled with, from 264: "<" 264, "/" 265, ">" 266, "s" 267.
    spelling = ["<", "/", ">", "s", "x", *"0123456789ABCDEF"]
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "▁▁",
        *spelling,
    ]
    tokenizer = _llama2_of(tokens, ["▁ a", "▁ ▁"], tmp_path)
    assert tokenizer.engine == "fastokens"
    # "a  b" becomes "▁a▁▁b": ▁a, ▁▁, b. No <s> in front. "é" is two bytes; "</s>" is four characters.
    assert tokenizer.encode_batch(["a  b"])[0].tolist() == [262, 263, 261]
    assert tokenizer.encode_batch(["é"])[0].tolist() == [259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode_batch(["</s>"])[0].tolist() == [259, 264, 265, 267, 266]
    assert tokenizer.encode_batch([""])[0].tolist() == []
    assert tokenizer.encode_batch(["▁"])[0].tolist() == [263]  # a space and U+2581 are one to this vocabulary
    # Without "<" as a token, the text "</s>" must be bytes, which fastokens would not see.
    lesser = _llama2_of([token for token in tokens if token != "<"], ["▁ a", "▁ ▁"], tmp_path)
    assert lesser.engine == "reference"
    assert lesser.encode_batch(["</s>"])[0].tolist() == [259, 3 + ord("<"), 264, 266, 265]


def _llama2_of(tokens: list[str], merges: list[str], folder: Path) -> Tokenizer:
    path = lookalikes.llama2(folder / "tokenizer.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model"] |= {"vocab": {token: rank for rank, token in enumerate(tokens)}, "merges": merges}
    path.write_text(json.dumps(document), encoding="utf-8")
    return load_tokenizer(path)


def test_merges_that_spell_the_end_of_text_are_refused(tmp_path: Path) -> None:
    path = lookalikes.llama2(tmp_path / "tokenizer.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    vocab, merges = document["model"]["vocab"], document["model"]["merges"]
    for piece in ("<", "/", "s", ">", "</", "s>"):
        vocab.setdefault(piece, len(vocab))
    document["model"]["merges"] = [*merges, ["<", "/"], ["s", ">"], ["</", "s>"]]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"end-of-text token </s> out of ordinary text"):
        load_tokenizer(path)


def test_what_is_not_quite_a_known_layout_is_left_to_the_reference(tmp_path: Path) -> None:
    def changed(change: Callable[[dict[str, Any]], object], make: Callable[[Path], Path]) -> Tokenizer:
        path = make(tmp_path / "tokenizer.json")
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_tokenizer(path)

    def unset_byte(document: dict[str, Any]) -> None:
        document["model"]["vocab"]["<0xFE>x"] = document["model"]["vocab"].pop("<0xFE>")

    one = changed(
        lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False), lookalikes.starcoder
    )
    two = changed(lambda d: d["added_tokens"][3].update(special=False), lookalikes.starcoder)
    three = changed(unset_byte, lookalikes.llama2)
    four = changed(lambda d: d["normalizer"]["normalizers"].pop(0), lookalikes.llama2)
    assert [each.engine for each in (one, two, three, four)] == ["reference"] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_text_join_into_the_ids_of_the_whole(made: dict[str, Tokenizer], kind: str) -> None:
    engine = _fast(made[kind])
    rng = random.Random(kind)
    alphabets = ["a", "ab", "etaoin", "abc12", " ", " \n\t", "!?='s", "é漢🙂a", "▁ a", "\u00a0 \x1cx", "'re "]
    for _ in range(250):
        letters = rng.choice(alphabets) + (rng.choice(alphabets) if rng.random() < 0.3 else "")
        text = "".join(letter * rng.choice([1, 1, 3, 90]) for letter in rng.choices(letters, k=150))
        parts = longtext.encode_long(text, engine._scheme, engine._part, part=80, margin=32)
        whole = made[kind].reference().encode_batch([text])[0]
        assert parts.tolist() == whole.tolist(), text


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_run_is_encoded_in_parts(made: dict[str, Tokenizer], kind: str) -> None:
    engine = _fast(made[kind])
    longest = 0

    def watched(text: str, first: bool) -> engines.Ids:
        nonlocal longest
        longest = max(longest, len(text))
        return engine._part(text, first)

    text = "".join(random.Random(3).choices("etaoinshr", k=60_000))
    ids = longtext.encode_long(text, engine._scheme, watched, part=1000, margin=200)
    assert ids.tolist() == made[kind].reference().encode_batch([text])[0].tolist()
    assert longest <= 1200


def test_a_batch_with_a_long_text_keeps_its_order(
    made: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PART", 1000)
    monkeypatch.setattr(longtext.encode_long, "__defaults__", (1000, 100))
    texts = ["first", "long " * 900 + "x" * 4000, "", "last one"]
    for kind in KINDS:
        got, want = made[kind].encode_batch(texts), made[kind].reference().encode_batch(texts)
        assert [ids.tolist() for ids in got] == [ids.tolist() for ids in want]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The hub's two calls replaced: what was asked, and a tokenizer.json for every repository."""
    asked: list[tuple[str, ...]] = []

    def resolve(repository: str, revision: str | None, remedy: str, *, kind: str) -> str:
        asked.append(("resolve", repository, str(revision), kind))
        return revision if revision and len(revision) == 40 else "c" * 40

    def download(repository: str, kind: str, commit: str, path: str, remedy: str) -> Path:
        asked.append(("download", repository, kind, commit, path))
        return tmp_path / "tokenizer.json"

    monkeypatch.setattr("data_prep.hub.resolve_commit", resolve)
    monkeypatch.setattr("data_prep.hub.download", download)
    return asked


def test_names_and_repositories_are_pinned_and_recorded(hub: list[tuple[str, ...]], tmp_path: Path) -> None:
    lookalikes.llama2(tmp_path / "tokenizer.json")
    sha = "01c7f73d771dfac7d292323805ebc428287df4f9"
    cases = {
        "llama2": ("meta-llama/Llama-2-7b-hf", sha, sha),
        "starcoder": ("bigcode/starcoder", "None", "c" * 40),
        "hub:someone/thing": ("someone/thing", "None", "c" * 40),
        "hub:someone/thing@v1.0": ("someone/thing", "v1.0", "c" * 40),
    }
    for spec, (repository, revision, commit) in cases.items():
        hub.clear()
        info = load_tokenizer(spec).info
        assert hub == [
            ("resolve", repository, revision, "model"),
            ("download", repository, "model", commit, "tokenizer.json"),
        ]
        assert (info.name, info.repository, info.revision, info.end_of_text) == (spec, repository, commit, 2)


def test_gpt2_from_the_hub_is_checked_against_its_digest(
    hub: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = load_tokenizer(prep_inputs.tokenizer_folder(tmp_path / "x"))
    local.save(tmp_path / "tokenizer.json")
    assert (local.info.repository, local.info.revision) == (None, None)
    with pytest.raises(HubError, match=r"not GPT-2's vocabulary; .*--tokenizer PATH"):
        load_tokenizer("gpt2")
    assert hub[0] == ("resolve", "openai-community/gpt2", tokenizers.GPT2_REVISION, "model")
    monkeypatch.setattr(tokenizers, "GPT2_DIGEST", local.sha256)
    info = load_tokenizer("gpt2").info
    assert (info.name, info.repository, info.revision) == (
        "gpt2",
        "openai-community/gpt2",
        tokenizers.GPT2_REVISION,
    )


def test_a_large_vocabulary_needs_uint32(tmp_path: Path) -> None:
    path = lookalikes.llama2(tmp_path / "tokenizer.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    vocab = document["model"]["vocab"]
    vocab |= {f"filler{number}": len(vocab) + number for number in range(70_000 - len(vocab))}
    path.write_text(json.dumps(document), encoding="utf-8")
    info = load_tokenizer(path).info
    assert (info.vocab_size, info.dtype) == (70_000, "uint32")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["starcoder", "llama2"])
def test_fast_equals_reference_on_every_code_point(made: dict[str, Tokenizer], kind: str) -> None:
    texts = every_code_point(1)
    fast, reference = made[kind].encode_flat(texts), made[kind].reference().encode_flat(texts)
    assert np.array_equal(fast[1], reference[1])
    assert np.array_equal(fast[0], reference[0])


@pytest.mark.parametrize("kind", KINDS)
def test_fast_equals_reference_on_a_sample_of_code_points(made: dict[str, Tokenizer], kind: str) -> None:
    texts = every_code_point(97)
    fast, reference = made[kind].encode_flat(texts), made[kind].reference().encode_flat(texts)
    assert fast[0].tolist() == reference[0].tolist()
