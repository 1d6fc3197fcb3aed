"""`make bench-loss`: ways from the last hidden states to the loss and back: seconds, and memory on a GPU.

python -m tests.benchmarks.loss [--shape TOKENS HIDDEN VOCABULARY …] [--rounds 9] [--tiny]

Forward and backward of head and cross-entropy, gradients of states and head included: logits all at once; Banyan's
chunks, whose backward multiplies anew, as they are and with the loss compiled; torch's linear_cross_entropy, which
takes gradients as it goes forward; Liger's kernel, which does so, too, where there is a GPU and liger-kernel; and cut
cross-entropy (Wijmans et al. 2024, arXiv:2411.09009), where cut-cross-entropy and triton are installed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks import report
from tests.benchmarks.contest import ROOT, Measured
from trainer.model.loss import logit_losses, row_losses

# Tokens, hidden size, vocabulary: of the demonstration's model and a small one; of 124M and 1B on a GPU
ON_CPU = ((1024, 256, 2048), (4096, 512, 16384))
ON_GPU = ((32768, 768, 50304), (16384, 2048, 128256))
TINY = ((64, 16, 96),)
CHUNK = 2048  # model.loss_chunk's default

# States (1, tokens, hidden), targets (1, tokens) and the head → the summed loss
Way = Callable[[Tensor, Tensor, nn.Linear], Tensor]


def in_chunks(chunk: int, *, compiled: bool = False) -> Way:
    """Banyan's."""
    measure = torch.compile(logit_losses) if compiled else logit_losses
    return lambda states, targets, head: row_losses(states, targets, head, chunk=chunk, measure=measure).sum()


def by_torch(states: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """torch's, in chunks of its own choice."""
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(states[0], head.weight, targets[0], reduction="sum", options=options)


def by_liger(states: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """Liger's kernel."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight, states[0], targets[0])


def by_cut(states: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """Apple's kernel, which holds no logits and leaves out gradients below bf16's precision; on a CPU its other way."""
    from cut_cross_entropy import linear_cross_entropy

    way = "cce" if states.is_cuda else "torch_compile"
    return linear_cross_entropy(states, head.weight, targets, reduction="sum", impl=way)


def ways(tokens: int) -> dict[str, Way]:
    """All of them, the chunked ones beside the one they are measured against."""
    return {
        "all at once": in_chunks(tokens),
        "all at once, compiled": in_chunks(tokens, compiled=True),
        f"chunks of {min(CHUNK, tokens // 2)}": in_chunks(min(CHUNK, tokens // 2)),
        f"chunks of {min(CHUNK, tokens // 2)}, compiled": in_chunks(min(CHUNK, tokens // 2), compiled=True),
        "torch.linear_cross_entropy": by_torch,
        "Liger": by_liger,
        "cut cross-entropy": by_cut,
    }


def once(way: Way, states: Tensor, targets: Tensor, head: nn.Linear) -> float:
    """Seconds forwards and backwards."""
    states.grad = head.weight.grad = None
    _synchronise(states)
    began = time.perf_counter()
    way(states, targets, head).backward()
    _synchronise(states)
    return time.perf_counter() - began


def measure(tokens: int, hidden: int, vocabulary: int, rounds: int) -> list[Measured]:
    """Every way in turn, `rounds` times, after one to warm up; in bf16 on a GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    states = torch.randn(1, tokens, hidden, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (1, tokens), device=device)
    head = nn.Linear(hidden, vocabulary, bias=False, device=device, dtype=dtype)
    running = ways(tokens)
    results = {name: Measured(name) for name in running}
    for number in range(rounds + 1):
        for name in list(running):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                seconds = once(running[name], states, targets, head)
            except (ImportError, AttributeError, RuntimeError) as error:
                results[name].failure = str(error).splitlines()[0][:100]
                del running[name]
                continue
            if number > 0:
                results[name].seconds.append(seconds)
            if device.type == "cuda":
                results[name].memory_bytes = torch.cuda.max_memory_allocated()
    return list(results.values())


def table(results: Sequence[Measured]) -> str:
    """Seconds, the speed against all logits at once, memory."""
    base = results[0]
    rows = []
    for result in results:
        if result.failure is not None:
            rows.append([result.name, "none", "", ""])
            continue
        speeds = report.ratios(result, base)
        gigabytes = f"{result.memory_bytes / 2**30:.2f}" if result.memory_bytes else ""
        ratio = f"{statistics.median(speeds):.3f} ± {report.spread(speeds):.3f}"
        rows.append([result.name, f"{1e3 * statistics.median(result.seconds):.1f}", ratio, gigabytes])
    failures = [f"{result.name}: {result.failure}" for result in results if result.failure is not None]
    return "\n".join([report.show(["", "ms", f"× {base.name}", "GiB"], rows), *failures])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures shapes, by default those of the device."""
    parser = argparse.ArgumentParser(
        prog="bench-loss", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs=3, type=int, action="append", metavar=("TOKENS", "HIDDEN", "VOCABULARY"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--tiny", action="store_true", help="sizes of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = report.machine()
    shapes = options.shape or (TINY if options.tiny else ON_GPU if torch.cuda.is_available() else ON_CPU)
    found = []
    for tokens, hidden, vocabulary in shapes:
        results = measure(tokens, hidden, vocabulary, options.rounds)
        print(f"\n{tokens} tokens, hidden size {hidden}, vocabulary {vocabulary}: {options.rounds} rounds")
        print(report.machine_line(facts))
        print(table(results), flush=True)
        found.append({"shape": [tokens, hidden, vocabulary], "results": results})
    report.write(options.output / "loss.json", {"machine": facts, "found": found})
    return 0


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
