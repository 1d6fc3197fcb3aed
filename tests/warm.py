"""What a process does before it forks ranks, so that none of them has to: all that they import, and a first picture.

The server that tests.run_ranks forks from imports this.
"""

import importlib
import json
import tempfile
from pathlib import Path

from trainer.report.curves import draw_curves
from trainer.track.sinks.journal import METRICS, metric_row

MODULES = (
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.profiler._cupti_monitor",
    "torch.utils.cpp_extension",
    "deepspeed",
    "deepspeed.module_inject.auto_ep_layer",
    "rich.console",
    "safetensors.torch",
    "trainer.verbs.pretrain",
    "trainer.verbs.evaluate",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt2.modeling_gpt2",
)


def draw_any_curves() -> None:
    """Draws a picture, after which matplotlib knows the fonts and the grammar of its formulas."""
    with tempfile.TemporaryDirectory() as folder:
        row = metric_row(step=1, tokens=1, metrics={"train/loss": 1.0, "train/lr": 1e-3})
        (Path(folder) / METRICS).write_text(json.dumps(row) + "\n")
        draw_curves(Path(folder))


def main() -> None:
    """Everything."""
    for name in MODULES:
        importlib.import_module(name)
    draw_any_curves()
