"""Small tokenizers in the JSON layout of well-known ones, trained here: starcoder's and Llama-2's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prep_inputs

STARCODER_TOKENS = (
    "<|endoftext|>",
    *(f"<{name}>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "filename")),
    *(f"<{name}>" for name in ("gh_stars", "issue_start", "issue_comment", "issue_closed")),
    *(f"<jupyter_{name}>" for name in ("start", "text", "code", "output")),
    *(f"<{name}>" for name in ("empty_output", "commit_before", "commit_msg", "commit_after", "reponame")),
)


def corpus() -> list[str]:
    """A little code and prose with digits, spaces in runs, and several scripts."""
    source = Path(json.__file__).read_text(encoding="utf-8")
    prose = [str(prep_inputs.record(n)["text"]) for n in range(300)]
    return [source, "x  =  1\n    y = 22\n\n\treturn 3.14 " * 20, "café é e\u0301 日本 ½ 東京 " * 20, *prose]


def starcoder(path: Path, size: int = 600) -> Path:
    """A tokenizer.json as bigcode/starcoder has it."""
    import tokenizers as library

    made = library.Tokenizer(library.models.BPE())
    digits = library.pre_tokenizers.Digits(individual_digits=True)
    as_bytes = library.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    made.pre_tokenizer = library.pre_tokenizers.Sequence([digits, as_bytes])
    made.post_processor = library.processors.ByteLevel(trim_offsets=True)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(STARCODER_TOKENS),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(corpus(), trainer)
    path.write_text(made.to_str(), encoding="utf-8")
    return path


def llama2(path: Path, size: int = 900) -> Path:
    """A tokenizer.json as meta-llama/Llama-2-7b-hf has it: bytes, no pre-tokenizer, runs of spaces."""
    trained = _trained_words(size - 259)
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    runs = ["▁" * n for n in (2, 4, 8, 16)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokens += [run for run in runs if run not in pieces]
    merges = [list(pair) for pair in trained["merges"]]
    merges += [[run[: len(run) // 2]] * 2 for run in runs if run not in pieces]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags, "special": True} for i in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        # Puts <s> first wherever special tokens are asked for: they must not be.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: rank for rank, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def _trained_words(size: int) -> dict[str, Any]:
    import tokenizers as library

    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="always", split=True
    )
    trainer = library.trainers.BpeTrainer(vocab_size=size, limit_alphabet=120, show_progress=False)
    made.train_from_iterator(_ascii_first(), trainer)
    model: dict[str, Any] = json.loads(made.to_str())["model"]
    return model


def _ascii_first() -> Iterator[str]:
    # Some characters stay outside the alphabet, so that bytes stand in for them.
    yield from (text.replace("東", "") for text in corpus())
