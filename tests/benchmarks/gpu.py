"""`make bench-gpu`: training speed on one GPU, within ten minutes and without a network.

python -m tests.benchmarks.gpu [--case NAME …] [--minutes 9.5] [--device cpu --tiny]

Every case is bf16, compiled, with fused AdamW: Banyan (autocast at ZeRO stage 0, DeepSpeed's bf16 at 1) against a bare
loop of the same model (autocast), nanoGPT's way of training at the same size, torchtitan's Llama (where
`tests/benchmarks/peers.sh torchtitan` has installed it before), and the matrix products alone. MFU is by
6N + 12·L·H·Q·T per token, causal attention not halved. A case that runs out of memory or time says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, Measured, compete
from tests.benchmarks.tokens import write_tokens

FLOOR = "matrix products alone"
BARE = "bare loop"
LLAMA_1B = Case(
    "1B-2048",
    precision="bf16",
    compile=True,
    device="cuda",
    threads=4,
    rows=8,
    sequence_length=2048,
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    rope_theta=500000.0,
    tie_word_embeddings=True,
)
GPT2 = dataclasses.replace(
    LLAMA_1B, name="124M-1024", rows=32, sequence_length=1024, vocab_size=50304, hidden_size=768,
    intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, rope_theta=10000.0,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A case, and whether Banyan competes in all its ways."""

    case: Case
    every_way: bool
    rounds: int
    steps: int


ENTRIES = (
    Entry(GPT2, every_way=True, rounds=5, steps=10),
    Entry(
        dataclasses.replace(
            GPT2, name="350M-1024", rows=16, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
            num_attention_heads=16, num_key_value_heads=16,
        ),
        every_way=True, rounds=4, steps=6,
    ),
    Entry(LLAMA_1B, every_way=False, rounds=3, steps=5),
    Entry(
        dataclasses.replace(LLAMA_1B, name="1B-4096", rows=4, sequence_length=4096), every_way=False, rounds=3, steps=5
    ),
    Entry(
        dataclasses.replace(
            LLAMA_1B, name="3B-2048", rows=2, hidden_size=3072, num_hidden_layers=28, num_attention_heads=24,
            activation_checkpointing="full",
        ),
        every_way=False, rounds=3, steps=4,
    ),
)  # fmt: skip


def contestants(entry: Entry) -> list[Contestant]:
    """Who competes: of small models Banyan also at ZeRO stage 1, and with all logits at once."""
    chosen = [
        Contestant(FLOOR, "products"),
        Contestant(BARE, "bare"),
        Contestant("banyan", "banyan"),
        Contestant("nanoGPT's way", "nanogpt"),
        Contestant("torchtitan's model", "torchtitan", peer="torchtitan"),
    ]
    if entry.every_way:
        chosen += [
            Contestant("banyan, ZeRO 1", "banyan", {"parallel.zero_stage": "1"}),
            Contestant("banyan, one chunk", "banyan", {"model.loss_chunk": str(entry.case.tokens)}),
        ]
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases that were named, by default all, while there is time."""
    parser = argparse.ArgumentParser(
        prog="bench-gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=[entry.case.name for entry in ENTRIES], help="by default all")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all together")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of milliseconds, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: no GPU here; --device cpu --tiny shows that it runs.", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * options.minutes
    failures = 0
    for entry in ENTRIES:
        if options.case and entry.case.name not in options.case:
            continue
        case = dataclasses.replace(entry.case, device=options.device)
        results = hold(dataclasses.replace(entry, case=case.shrunk() if options.tiny else case), options, deadline)
        failures += sum(one.failure is not None and one.name.startswith("banyan") for one in results)
    return 1 if failures else 0


def hold(entry: Entry, options: argparse.Namespace, deadline: float) -> list[Measured]:
    """Holds one contest, prints its table and writes its JSON."""
    case, facts = entry.case, report.machine()
    chosen = contestants(entry)
    groups = admit(chosen, planned_bytes(case), device_bytes(case))
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=min(case.vocab_size, 1 << 16), tokens=max(1 << 18, 64 * case.tokens))
        for group in groups:
            left = deadline - time.monotonic()
            if left < 15:
                results += [Measured(one.name, failure="not run: out of time") for one in group]
                continue
            timeout_s = min(left, 100.0 + 25.0 * len(group))
            found = compete(group, case, folder, rounds=entry.rounds, steps=entry.steps, timeout_s=timeout_s)
            print(f"\n{case.name}: {entry.rounds} turns of {entry.steps} steps of {case.tokens} tokens each")
            print(report.machine_line(facts))
            print(gpu_table(case, found), flush=True)
            results += found
    report.write(
        options.output / f"gpu-{case.name}.json", {"machine": facts, "entry": asdict(entry), "results": results}
    )
    return results


def admit(chosen: Sequence[Contestant], each: int, capacity: float) -> list[list[Contestant]]:
    """Contestants that need `each` bytes, in groups that a device's memory holds at once: those take turns.

    The yardsticks stand in every group, for ratios are of turns that followed each other; the products alone are small.
    """
    yardsticks = [one for one in chosen if one.name in (FLOOR, BARE)]
    others = [one for one in chosen if one.name not in (FLOOR, BARE)]
    size = int(max(1, min(len(others), capacity / each - 1)))
    return [yardsticks + others[first : first + size] for first in range(0, len(others), size)]


def planned_bytes(case: Case) -> int:
    """What a contestant takes of the device, as `banyan plan` reckons it for Banyan at stage 0."""
    from trainer.config import Model, Pretrain
    from trainer.config.plain_values import with_values
    from trainer.planning.layout import layout_of
    from trainer.planning.memory import memory_of

    config = with_values(
        Pretrain(model=Model(**case.model_settings(), loss_chunk=case.loss_chunk)),
        {
            "data.sequence_length": case.sequence_length,
            "train.precision": case.precision,
            "train.compile": case.compile,
            "train.activation_checkpointing": case.activation_checkpointing,
            "train.batch_size": case.rows,
            "train.micro_batch_size": case.rows,
        },
    )
    return memory_of(layout_of(config, 1, cuda=case.device == "cuda")).total


def device_bytes(case: Case) -> float:
    """The device's memory, less what is left free; on a CPU no limit."""
    import torch

    if case.device != "cuda":
        return math.inf
    return 0.9 * torch.cuda.get_device_properties(0).total_memory


def gpu_table(case: Case, results: Sequence[Measured]) -> str:
    """The contest's table with MFU and memory."""
    import torch

    from trainer.track.metrics import mfu, peak_flops

    peak = peak_flops(torch.cuda.get_device_name()) if case.device == "cuda" else None
    extra = {}
    for result in results:
        if result.failure is None:
            speed = case.tokens / statistics.median(result.seconds)
            share = mfu(tokens_per_second=speed, flops_per_token=flops_of(case), peak_flops_per_second=peak or math.inf)
            gigabytes = f"{result.memory_bytes / 2**30:.1f}" if result.memory_bytes else ""
            extra[result.name] = [f"{share:.1%}" if peak and result.name != FLOOR else "", gigabytes]
    return report.contest_table(case, results, base=BARE, floor=FLOOR, extra=(["MFU", "GiB"], extra))


def flops_of(case: Case) -> float:
    """Model FLOPs of a token, of the Llama of the case; nanoGPT's has as many parameters, nearly."""
    from trainer.config import Model
    from trainer.model.build import parameter_shapes
    from trainer.track.metrics import flops_per_token

    shapes = parameter_shapes(Model(**case.model_settings()))
    return flops_per_token(
        parameters=sum(map(math.prod, shapes.values())),
        layers=case.num_hidden_layers,
        heads=case.num_attention_heads,
        head_dim=case.head_dim,
        sequence_length=case.sequence_length,
    )


if __name__ == "__main__":
    sys.exit(main())
