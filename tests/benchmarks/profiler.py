"""Where the time of a training step goes: torch's profiler around `banyan pretrain` of the demonstration's model.

python -m tests.benchmarks.profiler [--zero-stage 0] [--precision fp32] [--compile] [--steps 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.rank_environment import for_rank, for_threads
from tests.benchmarks.case import Case
from trainer.machine.host import free_port

WARM = 6  # steps before it begins
LARGEST = 12  # operators that are shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains a few steps under the profiler and prints the operators that took most of the time."""
    parser = argparse.ArgumentParser(prog="profiler", description=__doc__.partition("\n")[0])
    parser.add_argument("--zero-stage", default="0")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, to see that it runs")
    options = parser.parse_args(arguments)
    os.environ.update({**for_rank(0, 1, free_port()), **for_threads(1, 1, os.environ), "WANDB_MODE": "disabled"})
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    case = Case("profiler", precision=options.precision, compile=options.compile)
    with tempfile.TemporaryDirectory(prefix="profiler-") as name:
        return profile(case.shrunk() if options.tiny else case, Path(name), options)


def profile(case: Case, folder: Path, options: argparse.Namespace) -> int:
    """Runs the verb with a trainer that profiles some of its steps."""
    import torch
    from torch.profiler import ProfilerActivity

    from tests.benchmarks.contestants import banyan
    from tests.benchmarks.contestants.stage import Stage
    from tests.benchmarks.tokens import write_tokens
    from trainer.engine.loop import Trainer
    from trainer.verbs import pretrain

    write_tokens(folder, vocab_size=case.vocab_size, tokens=1 << 18)
    config = banyan.configure(Stage(case, folder, {"parallel.zero_stage": options.zero_stage}))
    config.train.steps = WARM + options.steps
    config.evaluate.prompt = None
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    profiler = torch.profiler.profile(activities=activities)

    take_step = Trainer._take_step

    def profiled(self: Trainer, step: int) -> torch.Tensor:
        if step == WARM + 1:
            profiler.start()
        loss = take_step(self, step)
        if step == WARM + options.steps:
            profiler.stop()
        return loss

    Trainer._take_step = profiled  # type: ignore[method-assign]
    code = pretrain.main(config)
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=key, row_limit=LARGEST, max_name_column_width=60))
    return code


if __name__ == "__main__":
    sys.exit(main())
