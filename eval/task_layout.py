"""Which files of a hub repository the splits of a configuration are, by the rules of `datasets` itself.

A repository's README.md may give each configuration patterns of files, and the features and sizes of its
splits; without it the names of files decide. `datasets` is asked about a folder of empty files with the
repository's names, so that nothing of its rules is written anew here and nothing is downloaded.

README.md comes from the hub and is not trusted: what is handed on is copied from it part by part, and no
pattern leaves the repository.
"""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

README, LEGACY_INFOS, STANDALONE = "README.md", "dataset_infos.json", ".huggingface.yaml"
MAX_README_BYTES = 1 << 20
MAX_HEADER_BYTES = 256 << 10
"""Largest YAML header; that of cais/mmlu with its 58 configurations has about 40 KB."""
MAX_HEADER_NODES, MAX_HEADER_DEPTH = 100_000, 50
MAX_FILES = 20_000
"""Longest listing: a placeholder is made for each. The largest of the paper's tasks has some 200 files."""
MAX_STARS = 3
"""Wildcards in one part of a pattern: more of them make matching a long name take for ever."""
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
"""Data that holds text and numbers only; archives and pictures are refused."""

Header = Mapping[str, Any]


class LayoutError(Exception):
    """A repository has no usable layout for a configuration; the message is the reason, without the place."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of one configuration."""

    splits: Mapping[str, tuple[str, ...]]
    """Split -> paths in the repository, in the order in which they are read."""
    features: object = None
    """Column types that the configuration itself gives, as in README.md."""
    info: Mapping[str, Any] | None = None
    """Column types and sizes of the splits that README.md states; `datasets` checks the data against them."""

    def card(self, name: str) -> str:
        """README.md of a folder with these files, and this configuration only."""
        import yaml

        config: dict[str, object] = {
            "config_name": name,
            "data_files": [{"split": split, "path": list(paths)} for split, paths in self.splits.items()],
        }
        if self.features is not None:
            config["features"] = self.features
        header: dict[str, object] = {"configs": [config]}
        if self.info is not None:
            header["dataset_info"] = {"config_name": name, **self.info}
        # Copied, for YAML writes what occurs twice as an anchor.
        return f"---\n{yaml.safe_dump(json.loads(json.dumps(header)), sort_keys=False)}---\n"


def read_header(readme: bytes) -> Header:
    """The YAML header of a README.md, in new plain objects with texts as keys; empty if it has none.

    Raises LayoutError.
    """
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    try:
        found = REGEX_YAML_BLOCK.search(readme.decode("utf-8"))
        text = found.group(2) if found else ""
        if len(text) > MAX_HEADER_BYTES:
            raise LayoutError(f"the header of its {README} is longer than {MAX_HEADER_BYTES >> 10} KiB")
        header = _Copy().plain(_loader()(text).get_single_data())
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError) as error:
        raise LayoutError(f"the header of its {README} is not readable YAML ({one_line(error)})") from error
    if header is None:
        return {}
    if not isinstance(header, dict):
        raise LayoutError(f"the header of its {README} is no mapping")
    return header


def _loader() -> "type[yaml.SafeLoader]":
    import yaml

    class Loader(yaml.SafeLoader):
        """Without merge keys: of all YAML has, they alone grow while being read."""

        def flatten_mapping(self, node: "yaml.MappingNode") -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.YAMLError("it has merge keys")
            super().flatten_mapping(node)

    return Loader


@dataclass
class _Copy:
    """Copies plain data, so many nodes at most: an alias of YAML stands for a whole tree."""

    nodes: int = 0

    def plain(self, value: object, depth: int = 0) -> Any:
        """A copy of nothing but mappings, lists, texts, numbers and truth values."""
        self.nodes += 1
        if self.nodes > MAX_HEADER_NODES or depth > MAX_HEADER_DEPTH:
            raise ValueError("too large or too deep")
        if isinstance(value, dict):
            return {str(key): self.plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list):
            return [self.plain(each, depth + 1) for each in value]
        if (
            value is None
            or isinstance(value, (str, int))
            or (isinstance(value, float) and math.isfinite(value))
        ):
            return value
        return str(value)


def find_layouts(
    paths: Sequence[str], header: Header, names: Sequence[str | None], legacy: bytes | None
) -> dict[str | None, Layout]:
    """The files of each configuration in `names` (None: the default one) of a repository with files `paths`.

    `header` is from `read_header`; `legacy` is the content of dataset_infos.json, if there is one.

    Raises LayoutError; OSError of the scratch folder.
    """
    if len(paths) > MAX_FILES:
        raise LayoutError(f"it has more than {MAX_FILES:,} files")
    if STANDALONE in paths:
        raise LayoutError(f"it is described by {STANDALONE}, which is not supported")
    with tempfile.TemporaryDirectory(prefix="reweight-layout-") as scratch:
        folder, cache = Path(scratch).resolve() / "files", Path(scratch) / "cache"
        folder.mkdir()
        for path in paths:
            if path not in (README, LEGACY_INFOS):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).touch()
        known = frozenset(paths)
        return {name: _ask(folder, cache, known, header, name, legacy) for name in names}


def _ask(
    folder: Path, cache: Path, known: frozenset[str], header: Header, name: str | None, legacy: bytes | None
) -> Layout:
    """What `datasets` finds in a folder of placeholders."""
    import datasets
    import yaml

    config = _config(header, name)
    label = str(config["config_name"]) if config else "default"
    info = _info(header, label, alone=config is None)
    if info is None and legacy is not None:
        info = _legacy_info(legacy, label)
    if config is not None:
        (folder / README).write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n", encoding="utf-8")
    else:
        (folder / README).unlink(missing_ok=True)
    wanted = None if config is None else label
    try:
        # A cache of its own: the real one would be made, and locked, by asking.
        found = datasets.load_dataset_builder(str(folder), name=wanted, cache_dir=str(cache))
        files = {str(split): list(each) for split, each in (found.config.data_files or {}).items()}
    except Exception as error:  # whatever `datasets` makes of a README that is not trusted
        text = one_line(error).replace(f"{folder}/", "").replace(str(folder), "the repository")
        raise LayoutError(
            f"configuration {label}: `datasets` does not find its data as {README} describes it ({text})"
        ) from error
    splits = {
        split: tuple(_checked(Path(file), folder, known) for file in each) for split, each in files.items()
    }
    if not splits:
        raise LayoutError(f"configuration {label} has no data files")
    return Layout(splits=splits, features=(config or {}).get("features"), info=info)


def _checked(file: Path, folder: Path, known: frozenset[str]) -> str:
    """The path in the repository of a file that was found; LayoutError where it is not for us."""
    path = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else None
    if path not in known or path is None:
        raise LayoutError(f"its {README} names {str(file)[:100]!r}, which is no file of it")
    if set(path) & set("*?[]"):
        raise LayoutError(f"the name of {path[:100]!r} reads as a pattern")
    if not path.lower().endswith(SUFFIXES):
        raise LayoutError(f"{path[:100]!r} is not of a kind that is supported ({' '.join(SUFFIXES)})")
    return path


def _config(header: Header, name: str | None) -> dict[str, Any] | None:
    """The entry of README.md for a configuration, checked; None where README.md has none at all."""
    entries = header.get("configs") or []
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and isinstance(each.get("config_name"), str) for each in entries
    ):
        raise LayoutError(f"the configurations in its {README} have no names")
    by_name = {each["config_name"]: each for each in entries}
    if not by_name:
        if name not in (None, "default"):
            raise LayoutError(f"it has no configuration {name}, for its {README} names none")
        return None
    chosen = [name] if name is not None else _defaults(by_name)
    if len(chosen) != 1 or chosen[0] not in by_name:
        what = f"configuration {name}" if name is not None else "default configuration"
        raise LayoutError(f"it has no {what}; its {README} names {', '.join(by_name)[:200]}")
    config = dict(by_name[chosen[0]])
    config.pop("default", None)
    # What else a configuration may say tells a builder how to read, up to addresses of other files.
    if odd := sorted(
        set(config) - {"config_name", "data_files", "data_dir", "features", "version", "description"}
    ):
        raise LayoutError(f"configuration {chosen[0]} sets {odd[0][:60]!r}, which is not supported")
    for pattern in [*_patterns(config.get("data_files")), *_patterns(config.get("data_dir"))]:
        _check_pattern(pattern)
    return config


def _defaults(by_name: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if len(by_name) == 1:
        return list(by_name)
    return [name for name, each in by_name.items() if name == "default" or each.get("default")]


def _patterns(value: object) -> list[object]:
    """All patterns in what stands under data_files."""
    if value is None:
        return []
    if isinstance(value, dict):
        return _patterns(value.get("path"))
    return [each for one in value for each in _patterns(one)] if isinstance(value, list) else [value]


def _check_pattern(pattern: object) -> None:
    """LayoutError for a pattern that may lead out of the repository, or takes for ever to match."""
    if not isinstance(pattern, str) or not pattern or len(pattern) > 500:
        raise LayoutError(f"its {README} names {str(pattern)[:100]!r} as data, no pattern of files")
    parts = pattern.split("/")
    if pattern[0] in "/~" or ".." in parts or re.search(r"[:\\\x00-\x1f]", pattern):
        raise LayoutError(f"its {README} names {pattern[:100]!r} as data, which is not inside the repository")
    stars = (1 if part == "**" else len(re.findall(r"[*?]", part)) for part in parts)
    if max(stars) > MAX_STARS or parts.count("**") > MAX_STARS:
        raise LayoutError(f"its {README} names {pattern[:100]!r} as data, with too many wildcards")


def _info(header: Header, label: str, *, alone: bool) -> dict[str, Any] | None:
    """What README.md states of a configuration's columns and sizes."""
    entries = header.get("dataset_info") or []
    entries = [entries] if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise LayoutError(f"dataset_info in its {README} is neither a mapping nor a list of them")
    found = [each for each in entries if each.get("config_name", "default") == label]
    if not found and alone and len(entries) == 1:
        found = entries
    return _kept(found[-1]) if found else None


def _kept(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("features", "splits", "download_size", "dataset_size") if key in info}


def _legacy_info(legacy: bytes, label: str) -> dict[str, Any] | None:
    """What dataset_infos.json, older than the header of README.md, states of a configuration."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    try:
        document = json.loads(legacy)
        entry = document.get(label) or (next(iter(document.values())) if len(document) == 1 else None)
        if entry is None:
            return None
        card = DatasetCardData()
        DatasetInfosDict({label: DatasetInfo.from_dict(entry)}).to_dataset_card_data(card)
        info = _Copy().plain(card["dataset_info"])
    except Exception as error:  # as above: the file is not trusted
        raise LayoutError(f"its {LEGACY_INFOS} is not what it should be ({one_line(error)})") from error
    return _kept(info)


def one_line(error: BaseException, limit: int = 160) -> str:
    """The end of a chain of errors, where the reason is, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
