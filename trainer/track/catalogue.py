"""Every metric that a run can log: its name, unit, meaning, and the chart that it is drawn in.

docs/WATCHING.md has the same list; a test holds both against what runs log. In a name, {SET} stands for a validation
set, {DATASET} for one of a mixture, {TASK} for a task and {METRIC} for what is measured of it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LoggedMetric:
    """A metric, or a family of them. `log` says that its chart begins with a logarithmic axis."""

    name: str
    unit: str
    meaning: str
    chart: str
    log: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its names look like."""
        return _pattern(self.name)


LOGGED: tuple[LoggedMetric, ...] = (
    LoggedMetric("train/loss", "nats per target", "loss of the step's batch, by the objective's own unit", "Loss"),
    LoggedMetric(
        "eval/{SET}/loss", "nats per target", "loss on a validation set, with the weights of the step", "Loss"
    ),
    LoggedMetric(
        "eval/{SET}/source/{NAME}/bits_per_byte",
        "bits per byte",
        "bits per byte of text of the documents of one source",
        "Bits per byte by source",
    ),
    LoggedMetric(
        "eval/{SET}/source/{NAME}/tokens_per_byte",
        "tokens per byte",
        "tokens that the tokenizer needs there",
        "Tokens per byte",
    ),
    LoggedMetric(
        "eval/{SET}/language/{NAME}/bits_per_byte",
        "bits per byte",
        "bits per byte of text of the documents in one language",
        "Bits per byte by language",
    ),
    LoggedMetric(
        "eval/{SET}/language/{NAME}/tokens_per_byte",
        "tokens per byte",
        "tokens that the tokenizer needs there",
        "Tokens per byte",
    ),
    LoggedMetric(
        "eval/{SET}/bits_per_byte",
        "bits per byte",
        "the loss by byte of text: independent of the tokenizer",
        "Bits per byte",
    ),
    LoggedMetric(
        "eval/{SET}/bigram_loss",
        "nats per target",
        "loss of an interpolated bigram model: a yardstick, at the end",
        "Loss",
    ),
    LoggedMetric(
        "train/{DATASET}/loss",
        "nats per target",
        "loss of the step's rows of one dataset of a mixture",
        "Loss by dataset",
    ),
    LoggedMetric(
        "modality/{MODALITY}/loss",
        "nats per target",
        "loss of the step's targets that are codes of one modality, or text (data.modalities)",
        "Loss by modality",
    ),
    LoggedMetric(
        "modality/{MODALITY}/share", "share", "of the step's targets, those of one modality", "Targets by modality"
    ),
    LoggedMetric("train/batch_size", "rows", "of the step, where it ramps up or rows are cut", "Rows of a step"),
    LoggedMetric("train/sequence_length", "tokens", "of a row of the step, where rows are cut", "Length of rows"),
    LoggedMetric("train/lr", "", "learning rate of the step", "Learning rate"),
    LoggedMetric("train/muon_lr", "", "learning rate of Muon's matrices", "Learning rate of Muon"),
    LoggedMetric("train/grad_norm", "", "norm of the whole gradient, before clipping", "Gradient norm"),
    LoggedMetric("perf/tokens_per_second", "tokens/s", "targets trained on, over all ranks", "Throughput"),
    LoggedMetric("perf/mfu", "share", "model FLOPs utilisation: of the devices' dense peak", "MFU"),
    LoggedMetric("perf/step_seconds", "s", "mean time of a step since the row before", "Time of a step"),
    LoggedMetric("perf/data_wait_seconds", "s", "of it, rank 0's wait for the loader, a step's mean", "Wait for data"),
    LoggedMetric(
        "perf/checkpoint_stall_seconds",
        "s",
        "training stood still for a checkpoint since the row before",
        "Stalls for checkpoints",
    ),
    LoggedMetric(
        "perf/memory_bytes", "bytes", "rank 0's peak on its GPU; on a CPU, what its process has resident", "Memory"
    ),
    LoggedMetric("perf/padding_share", "share", "of a step's micro-batches, empty ones (elastic runs)", "Padding"),
    LoggedMetric(
        "train/{DATASET}/tokens", "targets", "the step's targets of one dataset of a mixture", "Targets by dataset"
    ),
    LoggedMetric(
        "train/{DATASET}/unique_tokens",
        "tokens",
        "what was taken of one dataset of a mixture for the first time, in rows of data.sequence_length",
        "Unique tokens by dataset",
    ),
    LoggedMetric(
        "train/{DATASET}/repeated_tokens",
        "tokens",
        "what was taken of it again, in later epochs",
        "Repeated tokens by dataset",
    ),
    LoggedMetric(
        "health/spike",
        "",
        "1 where the loss or the gradient norm is a spike: above mean + health.sigma of health.window before it",
        "Spikes",
    ),
    LoggedMetric(
        "health/bad_steps", "steps", "bad ones since the row before (health.on_spike is skip or rewind)", "Bad steps"
    ),
    LoggedMetric(
        "data/left_out_rows", "rows", "of the whole run, not trained on (data.on_bad_shard=skip)", "Rows left out"
    ),
    LoggedMetric("health/own_seconds", "s", "a step's own work, the median of ranks: data, forward, backward", "Ranks"),
    LoggedMetric("health/exchange_seconds", "s", "of a step, waits for other ranks, the median of ranks", "Ranks"),
    LoggedMetric(
        "health/slowest_ratio", "", "the slowest rank's own work over the median's", "Slowest rank over the median"
    ),
    LoggedMetric("health/slowest_rank", "rank", "which it is", "Slowest rank"),
    LoggedMetric("health/stragglers", "ranks", "ranks that are named as slow at the moment", "Stragglers"),
    LoggedMetric("health/data_share", "share", "of a step, waits for data, the longest of ranks", "Waits for data"),
    LoggedMetric(
        "moe/load_max", "of a fair share", "the busiest expert's part of its layer's tokens", "Load of experts"
    ),
    LoggedMetric(
        "moe/load_min", "of a fair share", "the idlest expert's part of its layer's tokens", "Load of experts"
    ),
    LoggedMetric(
        "moe/balance_loss", "", "load-balancing penalty, per token and layer, unweighted", "Penalties of experts"
    ),
    LoggedMetric("moe/router_z_loss", "", "router's z-loss, per token and layer, unweighted", "Penalties of experts"),
    LoggedMetric("rewards/chosen", "nats", "reward of the better answers (dpo, simpo, reward)", "Rewards"),
    LoggedMetric("rewards/rejected", "nats", "reward of the worse answers", "Rewards"),
    LoggedMetric("rewards/margins", "nats", "how far the better is ahead", "Margin of rewards"),
    LoggedMetric(
        "rewards/accuracies", "share", "of pairs, those in which the better is ahead", "Pairs in the right order"
    ),
    LoggedMetric("logps/chosen", "nats", "log-probability of the better answers", "Log-probabilities"),
    LoggedMetric("logps/rejected", "nats", "log-probability of the worse answers", "Log-probabilities"),
    LoggedMetric("distill/hard", "nats per target", "loss on the text itself", "Distillation"),
    LoggedMetric("distill/divergence", "nats per target", "divergence from the teacher", "Distillation"),
    LoggedMetric("energy/kwh", "kWh", "what the run has used so far, by all ranks' counters", "Energy"),
    LoggedMetric("energy/watts", "W", "power since the row before", "Power"),
    LoggedMetric(
        "energy/joules_per_token", "J per target", "energy of a target since the row before", "Energy of a token"
    ),
    LoggedMetric("energy/co2e_kg", "kg", "CO2 equivalents so far (track.energy.grid_gco2_per_kwh)", "Emissions"),
    LoggedMetric(
        "energy/estimated_kwh", "kWh", "the same as estimated from track.energy.device_watts", "Energy, estimated"
    ),
    LoggedMetric("energy/estimated_watts", "W", "the same as estimated", "Power, estimated"),
    LoggedMetric(
        "energy/estimated_joules_per_token", "J per target", "the same as estimated", "Energy of a token, estimated"
    ),
    LoggedMetric("energy/estimated_co2e_kg", "kg", "the same as estimated", "Emissions, estimated"),
    LoggedMetric(
        "eval/{SET}/{METRIC}",
        "",
        "a measure of the objective on a validation set: f1, precision, recall and accuracy "
        "of labels, rewards of pairs, parts of distillation",
        "{SET}",
    ),
    LoggedMetric(
        "eval/{TASK}/{METRIC}", "", "a task's figure (evaluate.tasks): acc, acc_norm, exact_match, …", "{SET}"
    ),
)


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """SET, DATASET and TASK may hold slashes; a METRIC may, too: `f1/spam`."""
    parts = re.split(r"\{[A-Z]+\}", name)
    return re.compile(".+?".join(map(re.escape, parts)) + ("" if not name.endswith("}") else "(?<=.)"))


def find_logged(name: str) -> LoggedMetric | None:
    """What a logged name is; None if it isn't in the list."""
    return next((metric for metric in LOGGED if metric.pattern.fullmatch(name)), None)


def chart_of(name: str) -> tuple[str, str]:
    """Title and unit of the chart that a logged name is drawn in; one that isn't listed has its own."""
    found = find_logged(name)
    if found is None:
        return name, ""
    if found.chart == "{SET}":
        return name.removeprefix("eval/").rpartition("/")[0], ""
    return found.chart, found.unit
