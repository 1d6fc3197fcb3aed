"""`banyan plan`: what a run takes, before a device is taken. Neither torch nor DeepSpeed is imported.

banyan plan model=llama_1b model.vocab_size=128256 plan.devices=64 plan.device=h100 plan.best=true …
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import AUTO
from trainer.config.plain_values import with_values
from trainer.config.ramps import Ramps
from trainer.config.verbs import Plan
from trainer.data.tokens.datasets import with_length
from trainer.data.tokens.history import History, total_steps_of
from trainer.errors import ConfigError
from trainer.machine.durable import write_json
from trainer.machine.host import multiplies_bf16
from trainer.planning import report
from trainer.planning.cluster import Cluster, cluster_of, with_vocabulary
from trainer.planning.cost import Cost, cost_of
from trainer.planning.fit import default_micro_batch
from trainer.planning.scaling import scale
from trainer.planning.search import Candidate, assess, rank
from trainer.rules.layouts import settle_precision
from trainer.rules.pretrain import check_pretrain
from trainer.run.plan_calibrate import calibrated


def main(config: Plan) -> int:
    """Prints the plan of a run, or of the best layouts for it; 0, or 2 where none fits."""
    config = with_known_model(config)
    config = with_length(config)
    require_output(config)
    cluster = cluster_of(config.plan, config.launch)
    if config.plan.calibrate is not None:
        cluster = calibrated(config.plan, cluster, device_given=bool(config.plan.device or config.launch.device))
    native_bf16 = cluster.device.cuda or multiplies_bf16()
    precision = settle_precision(config, cluster.devices, native_bf16=native_bf16)
    config = with_values(config, {"train.precision": precision})
    if config.plan.scaling != "none":
        points = scale(config, cluster)
        if not points:
            raise ConfigError(
                f"plan.scaling={config.plan.scaling}: at no number of devices from a node to {cluster.devices} can it "
                "train; try plan.best=true, or see why with plan.scaling=none."
            )
        print(report.of_scaling(points, config.plan.scaling))
        return 0
    if config.plan.best:
        ranking = rank(config, cluster)
        print(report.of_ranking(ranking, cluster, config.plan.top))
        if not ranking.fitting:
            return ConfigError.exit_code
        chosen = ranking.fitting[0]
    else:
        require_given_micro_batch(config)
        check_pretrain(config, cluster.devices)
        device = cluster.device
        size = default_micro_batch(config, cluster.devices, cuda=device.cuda, memory=device.memory)
        config = with_values(config, {"train.micro_batch_size": size})
        chosen = assess(config, cluster)
    cost = whole_run(chosen, cluster)
    print(report.of_candidate(chosen, cluster, cost))
    if config.plan.output:
        path = Path(config.plan.output)
        write_json(path, report.as_json(chosen, cluster, cost))
        print(f"written to {path}")
    return 0


def with_known_model(config: Plan) -> Plan:
    """With the vocabulary filled in; refuses models that only transformers knows the shape of."""
    if config.model.path is not None:
        raise ConfigError(
            "model.path: plan knows the shapes of Banyan's own decoder only; plan with model=llama_1b or its sizes, or "
            "model.init_from=DIR, which reads those of Llama, Qwen2 and Qwen3 folders."
        )
    if config.model.kind == "lstm":
        raise ConfigError(
            "model=lstm: plan reckons with attention and feed-forward, and knows the shapes of Banyan's own decoder "
            "only; plan with model=tiny, or its sizes."
        )
    known = with_vocabulary(config.model, config.data)
    if known is None:
        raise ConfigError("model.vocab_size isn't set and the data aren't here: set model.vocab_size, or data.path.")
    return dataclasses.replace(config, model=known)


def require_output(config: Plan) -> None:
    """Refuses a file that can't be written, before anything is reckoned."""
    folder = Path(config.plan.output).absolute().parent if config.plan.output else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"plan.output={config.plan.output}: there is no folder {folder}; make it, or mend the path.")


def require_given_micro_batch(config: Plan) -> None:
    """Refuses a micro-batch that only the run itself can find."""
    if config.train.micro_batch_size == AUTO:
        raise ConfigError(
            f"train.micro_batch_size={AUTO} is measured when the run begins: plan with a number, or plan.best=true."
        )


def whole_run(candidate: Candidate, cluster: Cluster) -> Cost | None:
    """What it takes to train to the end: plan.tokens, or those of the configuration; None where time isn't known."""
    config = candidate.config
    if candidate.time is None:
        return None
    per_step = config.train.batch_size * config.data.sequence_length
    history = History([], []).at_steps(step=0, ramps=Ramps.of(config.train, config.data))
    rows = history.position_after(total_steps_of(config))
    return cost_of(
        tokens=config.plan.tokens or rows * config.data.sequence_length,
        tokens_per_step=per_step,
        step_s=candidate.time.total,
        devices=cluster.devices,
        watts=cluster.device.watts,
        price=config.plan.price,
    )
