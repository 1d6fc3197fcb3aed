"""`banyan data labels`: annotated data: their schema, accuracy against a gold set, agreement between annotators."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trainer.data.labels import settings as label_settings
from trainer.data.labels.accuracy import compare_with_gold
from trainer.data.labels.agreement import find_disagreements, measure_agreement
from trainer.data.labels.records import read_labels
from trainer.errors import InputError
from trainer.machine.durable import write_json
from trainer.machine.terminal import one_line, show
from trainer.report.labels import LabelReport, label_report_as_json, label_report_lines


def judge_annotations(arguments: list[str]) -> int:
    """Checks annotated data, and measures accuracy and agreement; 2 if a record isn't as the schema says."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(label_settings.HELP, end="")
        return 0 if arguments else 2
    settings = label_settings.read_settings(arguments)
    labelled = read_labels(settings.file, settings.stated.kind, settings.names, settings.schema)
    files = [labelled]
    if settings.gold is not None:
        files.append(read_labels(settings.gold, labelled.schema.kind, settings.names, settings.schema))
    whole = not any(file.wrong for file in files)
    report = LabelReport(
        labelled,
        compare_with_gold(*files) if whole and settings.gold is not None else None,
        measure_agreement(labelled, settings.distance) if whole else None,
        find_disagreements(labelled) if whole else [],
    )
    if settings.json not in (None, "-"):
        write_json(Path(settings.json).expanduser(), label_report_as_json(report))
    if settings.json == "-":
        show(json.dumps(label_report_as_json(report), indent=1, ensure_ascii=False))
    elif whole:
        for line in label_report_lines(report, settings.listed):
            show(line)
    for file in files:
        for problem in file.problems[: settings.listed]:
            show(one_line(f"{file.path}, {problem}"), file=sys.stderr)
        if file.wrong:
            raise InputError(
                f"{file.path}: {file.wrong:,} problem{'s' * (file.wrong > 1)} in {file.records:,} records; mend them: "
                "accuracy and agreement can only be told of records that are as the schema says."
            )
    return 0
