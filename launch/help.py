"""`banyan --help` and `banyan VERB --help`, written from the schema and conf/; neither torch nor Hydra is imported."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from launch import groups, keys
from launch.verbs import VERBS, Verb

_WIDEST_DEFAULT = 24

_EXAMPLES = """\
Examples
  banyan pretrain                                             the demonstration: real text, minutes on two cores
  banyan pretrain model=llama_125m data.path=DIR train.tokens=2e9 parallel.zero_stage=1
  banyan pretrain launch.processes=2 parallel.zero_stage=2    two ranks on this machine
  banyan pretrain launch=slurm launch.nodes=4 launch.gpus_per_node=8 data.path=DIR …    submits a job
  banyan pretrain 'data.train.web={path: A, weight: 3}' 'data.train.code={path: B, weight: 1}'
  banyan pretrain --config-dir=my_conf experiment=first       with groups from my_conf/experiment/first.yaml
"""


def overview() -> str:
    """What `banyan --help` prints."""
    lines = ["Banyan pretrains language models: text → token shards → a trained model.", ""]
    lines += ["Verbs", *_columns([[verb.name, verb.sentence] for verb in VERBS.values()]), ""]
    lines += _configuration(VERBS["pretrain"], everything=False, title=" of pretrain")
    lines += ["banyan VERB --help explains a verb; banyan --version prints the version.", _exit_codes()]
    return "\n".join(lines) + "\n"


def of_verb(verb: Verb, *, everything: bool) -> str:
    """What `banyan VERB --help` prints; with `everything` all keys are listed, not just those used most."""
    lines = [f"banyan {verb.name} {verb.usage}", "", verb.sentence, ""]
    lines += _configuration(verb, everything=everything)
    if verb.name == "pretrain":
        lines += [_EXAMPLES]
    if not everything:
        lines.append(f"banyan {verb.name} --help all    every key")
    lines += [f"banyan {verb.name} … --cfg job  print the resolved configuration and leave", _exit_codes(), ""]
    lines.append(f"Other verbs: {', '.join(name for name in VERBS if name != verb.name)}.")
    return "\n".join(lines) + "\n"


def _configuration(verb: Verb, *, everything: bool, title: str = "") -> list[str]:
    assert verb.schema is not None
    values = groups.default_values(verb.name)
    listed = [key for key in keys.keys(verb.schema) if everything or _is_common(key, verb)]
    table = [[key.name, _shown(values.get(key.name, key.default)), key.unit, _sentence(key)] for key in listed]
    heading = f"All keys{title}" if everything else f"Keys{title} used most"
    return [*_groups(verb, title), f"{heading}: key, default, unit", *_columns(table), ""]


def _groups(verb: Verb, title: str) -> list[str]:
    where = groups.folders(None)
    rows = []
    for group, default in groups.default_choices(verb.name).items():
        names = [name + "*" * (name == default) for name in groups.choices(group, where)]
        if names:
            rows.append([group, "  ".join(names)])
    return [f"Groups{title}: group=choice (* is the default)", *_columns(rows), ""] if rows else []


def _is_common(key: keys.Key, verb: Verb) -> bool:
    return key.common and not any(f"{key.name}.".startswith(f"{name}.") for name in verb.unlisted)


def _sentence(key: keys.Key) -> str:
    return f"{key.text} One of {', '.join(key.choices)}." if len(key.choices) > 1 else key.text


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    shown = str(value).lower() if isinstance(value, bool) else str(value) or '""'
    return shown if len(shown) <= _WIDEST_DEFAULT else f"{shown[: _WIDEST_DEFAULT - 1]}…"


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows with aligned columns; the last one is wrapped to the terminal."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    indent = 2 + sum(width + 2 for width in widths)
    room = max(40, shutil.get_terminal_size((120, 24)).columns - indent)
    for row in rows:
        head = "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        first, *rest = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        yield head + first
        yield from (" " * indent + line for line in rest)


def _exit_codes() -> str:
    return (
        "Exit codes: 0 done; 2 bad configuration or input; 3 a loss or gradient that isn't finite; "
        "85 stopped after a checkpoint; else a crash."
    )
