"""What training and reweighting cost on a GPU: one command, one JSON file that names the hardware, one table.

    python benchmarks/gpu.py --out benchmarks/results

Needs torch, transformers and this repository; no data (tokens are random), no network. Under eight minutes on
an H200. A part that fails is recorded with its error and the others go on. Variants that are compared run in
turn; what counts are ratios within a round. `--device cpu --tiny` runs every part at toy size, to test the
script: its numbers mean nothing.
"""

import argparse
import gc
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # runs from a checkout, installed or not

import torch  # noqa: E402
import transformers  # noqa: E402
from gpu_parts import Bench, Record, gpt2, heads, memory  # noqa: E402

from reproduce.training.mesh import Mesh  # noqa: E402

PARTS: Mapping[str, Callable[[Bench], Record]] = {
    "gpt2_mini compiled, dropout 0.1": partial(gpt2, compile_it=True, dropout=0.1),
    "heads at GPT2-mini's shape": partial(heads, batch=32, tokens=512, width=768, vocab=50257),
    "memory: llama1b, 1 sample": partial(memory, name="llama1b_linupper", batch=1),
    "memory: llama1b, 2 samples": partial(memory, name="llama1b_linupper", batch=2),
    "memory: llama1b, 1 sample, recompute": partial(
        memory, name="llama1b_linupper", batch=1, recompute="blocks"
    ),
    "memory: llama1b, 2 samples, recompute": partial(
        memory, name="llama1b_linupper", batch=2, recompute="blocks"
    ),
    "memory: gpt2_mini": partial(memory, name="gpt2_mini_linupper"),
    "memory: gpt2_small": partial(memory, name="gpt2_small_linupper"),
    "memory: gpt2_medium": partial(memory, name="gpt2_medium_linupper"),
    "gpt2_mini eager, dropout 0.1": partial(gpt2, compile_it=False, dropout=0.1),
    "heads at Llama 1.4B's shape": partial(heads, batch=1, tokens=8192, width=2048, vocab=32000),
    "memory: llama1b, 2 samples, compiled": partial(memory, name="llama1b_linupper", batch=2, compiled=True),
    "gpt2_mini compiled, dropout 0": partial(gpt2, compile_it=True, dropout=0.0),
}
"""In order of importance: what time runs out for is recorded as left out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    options = _options(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: torch sees no CUDA device; --device cpu --tiny tests the script without one")
    bench = Bench(
        mesh=Mesh(device=device, precision="fp32" if options.tiny else "bf16"),
        tiny=options.tiny,
        rounds=2 if options.tiny else 8,
        steps=1 if options.tiny else 15,
    )
    start = time.monotonic()
    document: Record = {"schema": 1, "environment": _environment(device), "tiny": options.tiny, "parts": {}}
    for name, part in PARTS.items():
        if options.only is not None and options.only not in name:
            continue
        late = time.monotonic() - start > options.budget
        document["parts"][name] = {"left_out": "no time left"} if late else _run(bench, part)
        document["seconds"] = time.monotonic() - start
        _write(options.out, document)  # after every part: a killed run leaves what it found
        print("\n".join(_lines(name, document["parts"][name])), flush=True)
    print(f"{document['seconds']:.0f} s; wrote {_path(options.out, document)}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, nothing compiled")
    parser.add_argument("--budget", type=float, default=400.0, help="seconds after which no part starts")
    parser.add_argument("--only", help="parts whose name contains this")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu needs --tiny")
    return options


def _run(bench: Bench, part: Callable[[Bench], Record]) -> Record:
    start = time.monotonic()
    try:
        found = part(bench)
    except Exception as error:  # one part must not cost the others
        found = {
            "error": f"{type(error).__name__}: {error}"[:2000],
            "traceback": traceback.format_exc()[-4000:],
        }
    torch._dynamo.reset()
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()
    return found | {"seconds": time.monotonic() - start}


def _environment(device: torch.device) -> Record:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "cuda": str(torch.version.cuda)}
    if device.type == "cpu":
        return {"hardware": f"cpu {platform.machine()}", "cpus": os.cpu_count(), **versions}
    properties = torch.cuda.get_device_properties(device)
    return {
        "hardware": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cpus": os.cpu_count(),
        **versions,
    }


def _path(folder: Path, document: Record) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", document["environment"]["hardware"].lower()).strip("-")
    return folder / f"gpu-{name}{'-tiny' if document['tiny'] else ''}.json"


def _write(folder: Path, document: Record) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _path(folder, document).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _lines(name: str, found: Record) -> Iterator[str]:
    """A part as lines of text."""
    yield f"\n{name} ({found.get('seconds', 0):.0f} s)"
    for key, value in found.items():
        if key in ("seconds", "traceback", "estimated_parts"):
            continue
        if not isinstance(value, dict):
            yield f"  {key:<52} {_shown(key, value)}"
            continue
        shown = (f"{k} {_shown(k, v)}" for k, v in value.items() if k != "values")
        yield f"  {key:<52} {'  '.join(shown)}"


def _shown(key: str, value: object) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    if key.endswith("bytes"):
        return f"{value / 1e9:.2f} GB"
    if key == "tokens_per_s":
        return f"{value:,.0f}"
    return f"{value:.4g}"


if __name__ == "__main__":
    main()
