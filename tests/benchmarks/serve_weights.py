"""What the precision of served weights costs and gives on a CPU: speed against the memory's, memory, loss.

python -m tests.benchmarks.serve_weights [--folder HF_FOLDER] [--threads 1] [--tokens 64]

One answer at a time through `banyan serve`. A token needs every weight once, so no more tokens come in a second than
the memory gives weights: bandwidth / bytes of weights. The bandwidth is the best of several sums over 512 MiB, by as
many threads. Loss is that of a text given with --text, by default README.md and docs of Banyan, 512 tokens each.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import report
from tests.benchmarks.contest import ROOT
from tests.benchmarks.serve import Load, _print_table, _smollm2, banyan, run_load, serving
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.evaluate.folder_model import load_folder
from trainer.machine.host import free_port
from trainer.serve.engines.cpu_products import quicken

WAYS = (
    ("torch", "f32"),
    ("torch", "bf16"),
    ("torch", "int8"),
    ("llama_cpp", "f32"),
    ("llama_cpp", "q8_0"),
    ("llama_cpp", "q4_0"),
)
ROW = 512  # tokens of a stretch whose loss is measured
BANDWIDTH = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
x, best = torch.ones(2**27), 1e9
for _ in range(9):
    began = time.perf_counter(); x.sum(); best = min(best, time.perf_counter() - began)
print(x.numel() * 4 / best)
"""


def bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read."""
    done = subprocess.run([sys.executable, "-c", BANDWIDTH, str(threads)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def export(folder: Path, output: Path, precision: str) -> Path:
    """The folder's weights in another precision, by `banyan export`."""
    form = ["format=int8"] if precision == "int8" else ["format=gguf", f"export.gguf={precision}"]
    command = [sys.executable, "-P", "-m", "launch", "export", f"path={folder}", *form, f"export.output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return output


def weight_bytes(folder: Path, precision: str) -> int:
    """Of the files that hold the weights; bf16 ones are half of those in fp32."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".gguf", ".safetensors"))
    return size // 2 if precision == "bf16" else size


@torch.inference_mode()
def loss(folder: Path, precision: str, rows: torch.Tensor) -> float:
    """Nats per token of rows (count, ROW), by weights in this precision; torch's by the products of serve."""
    if precision in ("q8_0", "q4_0"):
        from transformers import AutoModelForCausalLM

        file = next(folder.glob("*.gguf")).name
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        return _mean(((theirs(row[None]).logits[0], row) for row in rows), rows)
    model: Any = load_folder(folder, torch.device("cpu"))
    model = model.bfloat16() if precision == "bf16" else model
    quicken(model, precision)
    if precision != "int8":
        return _mean(((model(row[None])[0], row) for row in rows), rows)

    def few_at_once(row: torch.Tensor) -> torch.Tensor:  # for which its products are others
        cache, last = model.new_cache(ROW), []
        for token in row:
            last.append(model(token[None, None], cache=cache)[0, -1])
        return torch.stack(last)

    return _mean(((few_at_once(row), row) for row in rows), rows)


def _mean(told: Iterable[tuple[torch.Tensor, torch.Tensor]], rows: torch.Tensor) -> float:
    sums = [
        torch.nn.functional.cross_entropy(logits[:-1].float(), row[1:], reduction="sum").item() for logits, row in told
    ]
    return sum(sums) / (len(rows) * (ROW - 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures each way and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument(
        "--text", nargs="*", type=Path, default=[ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    )
    parser.add_argument("--rows", type=int, default=16, help="stretches of 512 tokens whose loss is measured")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-weights-") as name:
        folder = options.folder or _smollm2(Path(name))
        ids = load_tokenizer(folder).encode("\n".join(path.read_text() for path in options.text))
        count = min(options.rows, len(ids) // ROW)
        rows = torch.tensor(ids[: count * ROW]).view(count, ROW)
        folders = {"f32": folder, "bf16": folder}
        for precision in ("int8", "q8_0", "q4_0"):
            folders[precision] = export(folder, Path(name) / precision, precision)
        losses = {precision: loss(path, precision, rows) for precision, path in folders.items()}
        table = [["engine", "weights", "MB", "tokens/s", "of the limit", "first ms", "MiB", "loss", "change"]]
        for engine, precision in WAYS:
            port, load = free_port(), Load()
            command = banyan(folder, engine, precision, port, 1, options.threads)
            before = bandwidth(options.threads)
            with serving(f"{engine} {precision}", command, port, "model", options.threads, "/health") as server:
                asyncio.run(run_load(server, 1, 1, options.tokens))
                for _ in range(options.rounds):
                    load.add(asyncio.run(run_load(server, 1, options.requests, options.tokens)))
                memory = server.memory_bytes
            limit = max(before, bandwidth(options.threads)) / weight_bytes(folders[precision], precision)
            speed = 1 / statistics.median(load.between)
            table.append(
                [
                    engine,
                    precision,
                    f"{weight_bytes(folders[precision], precision) / 1e6:.0f}",
                    f"{speed:.1f}",
                    f"{speed / limit:.0%} of {limit:.1f}",
                    f"{1000 * statistics.median(load.first):.0f}",
                    f"{memory / 2**20:,.0f}",
                    f"{losses[precision]:.4f}",
                    f"{losses[precision] - losses['f32']:+.4f}",
                ]
            )
            print(f"{engine} {precision}: {speed:.1f} tokens/s, {load.errors} errors", file=sys.stderr, flush=True)
        _print_table(table)
        print(f"{count * ROW:,} tokens of text, {options.threads} threads; {report.machine_line(report.machine())}")
        print(time.strftime("%F %T"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
