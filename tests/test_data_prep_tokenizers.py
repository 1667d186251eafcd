"""Ids: the fast engine equals the reference, whatever file the vocabulary came from."""

import json
import pickle
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import prep_inputs
import pytest

from data_prep import bpe, engines, tokenizers
from data_prep.errors import DataError, UserError
from data_prep.schemes import Scheme
from data_prep.tokenizers import Tokenizer, load_tokenizer, train_bpe

ADVERSARIAL = [
    "",
    " ",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|>",
    "don't we'll I'VE they'd it's 'tis ''s",
    "a" * 5000,
    " " * 5000,
    " " * 5000 + "x",
    "\n" * 3000 + " \t\r\n",
    "x \u00a0\u2003\u3000\u200b\u0085y\x1c\x1d\x1e\x1f z",
    "".join(map(chr, range(0x20))) + "\x7f\x80\x9f",
    "12345678901234567890 ½ Ⅷ ٣٤٥ ๑",
    "naïve Ünï̈cödé e\u0301 ñ \ufb01 ﷺ",
    "日本語のテキスト。한국어 텍스트 العربية עברית ไทย हिन्दी",
    "👩‍👩‍👧‍👦🏳️‍🌈🙂🇯🇵\ufe0f\U0010ffff\ufffd\ufffe",
    "def f(x):\n\treturn  x  # !!!???...---\r\n\r\n",
    "ab" * 4000,
    "!?" * 4000,
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_bpe(400, _corpus())


def _corpus() -> list[str]:
    source = Path(json.__file__).read_text(encoding="utf-8")
    return [source, *ADVERSARIAL[2:5], *(str(prep_inputs.record(n)["text"]) for n in range(300))]


def _same(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.engine == "fastokens"
    fast, reference = tokenizer.encode_batch(texts), tokenizer.reference().encode_batch(texts)
    for text, a, b in zip(texts, fast, reference, strict=True):
        assert a.tolist() == b.tolist(), text[:80]


def test_fast_equals_reference_on_adversarial_text(trained: Tokenizer) -> None:
    _same(trained, ADVERSARIAL)


def test_fast_equals_reference_on_random_mixtures(trained: Tokenizer) -> None:
    rng = random.Random(0)
    alphabet = "ab  \n\t'sdmtlrve1½日é🙂\u0301\u00a0\u0085\x1c!<|>endoftx"
    _same(trained, ["".join(rng.choices(alphabet, k=rng.randint(1, 200))) for _ in range(1500)])


def every_code_point(step: int) -> list[str]:
    # Beside a letter, a digit, a mark and white space, so that each class of the pre-tokenizer shows.
    points = [chr(c) for c in range(0, sys.maxunicode + 1, step) if not 0xD800 <= c < 0xE000]
    return [
        "".join(f"x{c}x 1{c}1 !{c}! {c}  {c}\n" for c in points[i : i + 500])
        for i in range(0, len(points), 500)
    ]


def test_fast_equals_reference_on_a_sample_of_code_points(trained: Tokenizer) -> None:
    _same(trained, every_code_point(41))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fast_equals_reference_on_every_code_point(trained: Tokenizer) -> None:
    _same(trained, every_code_point(1))


def test_bytes_come_back(trained: Tokenizer) -> None:
    model = bpe.from_tokenizer_json(json.loads(trained.document))
    assert model is not None
    token = {rank: data for data, rank in model.ranks().items()}
    for text, ids in zip(ADVERSARIAL, trained.encode_batch(ADVERSARIAL), strict=True):
        assert b"".join(token[i] for i in ids.tolist()).decode("utf-8") == text


def test_a_hand_worked_encoding(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(prep_inputs.tokenizer_folder(tmp_path / "hand"))
    # Ids 0..255 are byte values; then th 256, the 257, Ġthe 258, Ġa 259, of 260, Ġof 261, in 262, Ġin 263.
    # "the of thin" splits into "the", " of", " thin"; " thin" -> Ġ th in (Ġ + th is no token).
    assert tokenizer.encode_batch(["the of thin"])[0].tolist() == [257, 261, ord(" "), 256, 262]
    # The end-of-text string is ordinary text: its bytes with "of" merged, no id 264.
    assert tokenizer.encode_batch(["<|endoftext|>"])[0].tolist() == [*b"<|end", 260, *b"text|>"]
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.name) == (265, 264, "hand")


def test_one_digest_for_every_file_format(tmp_path: Path) -> None:
    first = load_tokenizer(prep_inputs.tokenizer_folder(tmp_path / "a"))
    second = load_tokenizer(prep_inputs.tokenizer_folder(tmp_path / "b", "vocab.json", "merges.txt"))
    (tmp_path / "c").mkdir()
    first.save(tmp_path / "c/tokenizer.json")
    third, fourth = load_tokenizer(tmp_path / "c"), load_tokenizer(tmp_path / "c/tokenizer.json")
    assert {each.sha256 for each in (first, second, third, fourth)} == {first.sha256}
    assert third.document == first.document
    old = json.loads(first.document)
    # Older files spell merges as one string, and may carry padding that must not reach the ids.
    old["model"]["merges"] = [" ".join(pair) for pair in old["model"]["merges"]]
    old["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert load_tokenizer(tmp_path / "old.json").sha256 == first.sha256


def test_transformers_reads_what_is_saved(tmp_path: Path, trained: Tokenizer) -> None:
    import tokenizers as library

    trained.save(tmp_path / "tokenizer.json")
    loaded = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.get_vocab_size() == 400
    assert loaded.token_to_id("<|endoftext|>") == 399
    text = "def f(x): return naïve 日本"
    assert loaded.encode(text).ids == trained.encode_batch([text])[0].tolist()
    assert loaded.decode(loaded.encode(text).ids) == text


def test_training_is_deterministic_and_exact(trained: Tokenizer) -> None:
    again = train_bpe(400, _corpus())
    assert (again.document, again.sha256) == (trained.document, trained.sha256)
    assert (trained.vocab_size, trained.end_of_text, trained.name) == (400, 399, "bpe:400")
    with pytest.raises(DataError, match="yields only"):
        train_bpe(400, ["a b"])


def test_pickling_keeps_the_ids(trained: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(trained))
    assert (
        copy.encode_batch(ADVERSARIAL[4:5])[0].tolist() == trained.encode_batch(ADVERSARIAL[4:5])[0].tolist()
    )


def test_merges_that_ranks_cannot_express_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # "abc" may only come from (a, bc), but "ab" is merged first: the list leaves [ab, c], while a
    # rank-ordered BPE would join them, as their bytes are the token abc.
    folder = prep_inputs.tokenizer_folder(tmp_path / "odd")
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    tokens = [*bpe.byte_alphabet(), *(a + b for a, b in merges), "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_batch(["abc"])[0].tolist() == [256, ord("c")]
    # tiktoken orders merges by rank, so it must not stand in.
    assert tokenizer.as_tiktoken() is None
    monkeypatch.setattr(engines, "LIBRARIES", engines.LIBRARIES[1:])
    again = load_tokenizer(folder)
    assert again.engine == "reference"
    assert again.encode_batch(["abc"])[0].tolist() == [256, ord("c")]


def test_an_engine_that_errs_or_is_missing_is_passed_over(
    trained: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained.encode_batch(ADVERSARIAL)

    class Wrong:
        """Equal to the reference but for one id of one probe."""

        def __init__(self, scheme: Scheme) -> None:
            self._right = engines._Fastokens(scheme)

        def flat(self, texts: Sequence[str]) -> engines.Flat:
            ids, lengths = self._right.flat(texts)
            changed = ids.copy()
            changed[-1] ^= 1
            return changed, lengths

    def missing(_: Scheme) -> Wrong:
        raise ImportError("no wheel for this machine")

    for first in (Wrong, missing):
        copy = pickle.loads(pickle.dumps(trained))
        monkeypatch.setattr(engines, "LIBRARIES", (("fastokens", first), ("tiktoken", engines._Tiktoken)))
        assert copy.engine == "tiktoken"
        for a, b in zip(copy.encode_batch(ADVERSARIAL), expected, strict=True):
            assert a.tolist() == b.tolist()


def test_flat_ids_are_the_batch_end_to_end(trained: Tokenizer) -> None:
    each = trained.reference().encode_batch(ADVERSARIAL)
    ids, lengths = trained.encode_flat(ADVERSARIAL)
    assert ids.tolist() == [i for one in each for i in one.tolist()]
    assert lengths.tolist() == [len(one) for one in each]
    assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
    empty, none = trained.encode_flat([])
    assert (empty.shape, none.shape, trained.encode_batch([])) == ((0,), (0,), [])


def test_long_runs_stay_linear_enough(trained: Tokenizer) -> None:
    # A quadratic merge would need minutes for 300,000 of one character; the suite's limit would end it.
    for run in ("a" * 300_000, " " * 300_000, "\n" * 300_000 + "x", "漢" * 100_000):
        assert int(np.size(trained.encode_batch([run])[0])) > 0


@pytest.mark.parametrize(
    "spec",
    ["bpe:", "bpe:12", "bpe:x", "bpe:-5", "bpe:99999999999999", "bpe:٣٠٠٠", "gpt3", "", "hub:", "hub:a/b@"],
)
def test_a_spec_of_no_kind_is_a_usage_error(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask = tokenizers.bpe_size if spec.startswith("bpe:") else load_tokenizer
    with pytest.raises(UserError) as caught:
        ask(spec)
    assert caught.value.exit_code == 2


def test_missing_and_damaged_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = prep_inputs.tokenizer_folder(tmp_path / "bad")
    (bad / "vocab.bpe").write_bytes(b"#version\n\xff\xfe")
    other = prep_inputs.tokenizer_folder(tmp_path / "other")
    (other / "vocab.bpe").write_text("#version: 0.2\nz q\n")
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", '{"model": 3}')):
        (tmp_path / name).write_text(text)
    for path in ("none", "empty", "bad", "other", "a.json", "b.json", "c.json"):
        with pytest.raises(DataError) as caught:
            load_tokenizer(tmp_path / path)
        assert str(tmp_path / path) in str(caught.value)


def test_a_generic_tokenizer_runs_on_the_reference(tmp_path: Path) -> None:
    import tokenizers as library

    words = {"<unk>": 0, "hello": 1, "world": 2, "</s>": 3, "<": 4, "/": 5, "s": 6, ">": 7}
    built = library.Tokenizer(library.models.WordLevel(words, unk_token="<unk>"))
    built.pre_tokenizer = library.pre_tokenizers.Whitespace()
    built.add_special_tokens(["</s>"])
    built.save(str(tmp_path / "words.json"))
    tokenizer = load_tokenizer(tmp_path / "words.json")
    assert (tokenizer.engine, tokenizer.end_of_text, tokenizer.vocab_size) == ("reference", 3, 8)
    # "</s>" inside a text is split as text (Whitespace groups punctuation: "</", "s", ">"), never id 3.
    assert 3 not in tokenizer.encode_batch(["hello </s> world"])[0].tolist()


def test_a_tokenizer_that_ends_documents_from_text_is_refused(tmp_path: Path) -> None:
    import tokenizers as library

    # Splitting at white space alone leaves "</s>" a word, and it is in the vocabulary: id 3 out of text.
    built = library.Tokenizer(library.models.WordLevel({"<unk>": 0, "a": 1, "</s>": 3}, unk_token="<unk>"))
    built.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    built.save(str(tmp_path / "words.json"))
    tokenizer = load_tokenizer(tmp_path / "words.json")
    assert tokenizer.encode_batch(["a b"])[0].tolist() == [1, 0]
    with pytest.raises(DataError, match="yields its end-of-text id 3"):
        tokenizer.encode_batch(["a </s> a"])


def test_a_sentencepiece_model_is_told_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    for spec in (tmp_path, tmp_path / "tokenizer.model"):
        with pytest.raises(DataError, match=r"SentencePiece model.*save_pretrained\('DIR'\)") as caught:
            load_tokenizer(spec)
        assert "\n" not in str(caught.value)
