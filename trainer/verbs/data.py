"""Look at token shards: `banyan data verify|show|index|stats DIR`, `banyan data at RUN_DIR step=N`.

Check annotated data: `banyan data labels FILE`.

DIR is a dataset (it holds manifest.json) or an output of prepare, whose train and validation are both looked at.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from trainer.data.clean.fate import find_fates
from trainer.data.text.plan import read_plan
from trainer.data.tokens.manifest import Manifest, datasets_in, read_manifest
from trainer.data.tokens.modalities import as_text
from trainer.data.tokens.shard_index import build_index, hash_index, write_index
from trainer.data.tokens.shards import Shards, open_shards
from trainer.data.tokens.stream_rows import rows_by_shard
from trainer.data.tokens.token_reader import TokenReader
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.tokens.verify import verify
from trainer.data.web.index_again import index_again
from trainer.errors import ConfigError, InputError
from trainer.machine.terminal import one_line, show
from trainer.run.directory import require_run_dir
from trainer.run.subcommand import choose_command

SHOWN_DOCUMENTS = 3
SHOWN_CHARACTERS = 1000
SHOWN_TOKENS = 4 * SHOWN_CHARACTERS + 4  # of one byte each, they are as many characters
ROW_LENGTHS = (256, 1024, 2048, 4096, 8192)  # tokens
BAR_WIDTH = 40  # characters of the longest bar


HELP = """usage: banyan data COMMAND …

  verify DIR               hash and count everything again; a line for each problem, exit code 2 if there is any
  show DIR [N]             the first N documents as text (3)
  stats DIR [LENGTH …]     totals, rejections, licences, lengths of documents, rows and tails at sequence lengths
  index DIR                build the indices again from the tars
  index 'TARS' … data.output=DIR data.tokenizer.path=TOKENIZER
                           index WebDatasets of others where they lie; then data.path=DIR trains on them (docs/DATA.md)
  at RUN_DIR step=N        the documents that a run trained on at step N
  why DIR id=FILE:RECORD   what became of a document of prepare's input, also id=HASH (xxh3-128 of its text)
  trace WHAT [FOLDER …] [format=json]
                           a data set's fingerprint, a document's hash or FILE:RECORD, or the folder of a run, a
                           checkpoint or an export: shards, data sets, runs, checkpoints and exports, below FOLDER (.)
  thresholds DIR KEY=VALUE …
                           what other thresholds of data.clean would reject, rule by rule, of documents and characters;
                           for outputs of prepare with data.clean.signals=true
  rekey DIR data.encryption.key_file=OLD new.key_file=NEW [full=true]
                           another key for what is encrypted (also key_env, key_command), of data or of a run; with full
                           the data themselves are encrypted anew
  push data.path=DIR data.store=FOLDER_OR_URL
                           send the data where others find them, by fingerprint; the same command goes on after a kill
  pull FINGERPRINT data.store=FOLDER_OR_URL data.output=DIR
                           fetch a set, by its fingerprint or the first digits; hashed, and gone on with after a kill
  ls data.store=FOLDER_OR_URL [format=json]
                           the sets in a store, or in a folder of prepared data
  labels FILE [gold=FILE]  annotated data: schema, accuracy against a gold set, agreement between annotators;
                           `banyan data labels --help` lists its settings

DIR is a folder of token shards, or an output of prepare. For encrypted data add data.encryption.key_file=FILE.
"""


def main(arguments: list[str]) -> int:
    """Runs `banyan data COMMAND …`; the exit code."""
    command = choose_command("data", COMMANDS, arguments, HELP)
    if command is None:
        return 0
    return command(arguments[1:])


def _datasets(arguments: list[str], command: str) -> list[Manifest]:
    """The datasets in the one folder that is named."""
    if len(arguments) != 1:
        raise ConfigError(f"usage: banyan data {command} DIR, with one folder of token shards.")
    return [read_manifest(folder) for folder in datasets_in(Path(arguments[0]).expanduser())]


# ---------------------------------------------------------------------------------------------------------- verify


def _verify(arguments: list[str]) -> int:
    """Hashes and recounts everything; a line for each problem, 2 if there is any."""
    problems = 0
    for manifest in _datasets(arguments, "verify"):
        found = verify(manifest)
        for problem in found:
            show(one_line(problem))
        if not found:
            show(f"{manifest.folder}: OK, {_totals(manifest)}")
        problems += len(found)
    return 2 if problems else 0


# ----------------------------------------------------------------------------------------------------------- index


def _index(arguments: list[str]) -> int:
    """Builds the indices again from the tars."""
    for manifest in _datasets(arguments, "index"):
        if manifest.indexed is not None:
            manifest = index_again(manifest)
            open_shards(manifest)
            show(f"{manifest.folder}: {len(manifest.shards)} indices written, of the same documents")
            continue
        for shard in manifest.shards:
            path = manifest.folder / shard.file
            if not path.is_file():
                raise InputError(f"{path}: the shard is missing; fetch it, or prepare the data again.")
            index = build_index(path, manifest.dtype)
            if shard.index_sha256 not in (None, hash_index(index)):
                raise InputError(f"{path}: not the shard that the manifest describes; fetch it, or prepare it again.")
            write_index(path, index)
        open_shards(manifest)  # the counts must agree with the manifest
        show(f"{manifest.folder}: {len(manifest.shards)} indices written")
    return 0


# ------------------------------------------------------------------------------------------------------------ show


def _show(arguments: list[str]) -> int:
    """Prints the first documents, decoded."""
    wanted = SHOWN_DOCUMENTS
    if len(arguments) == 2:
        wanted = _number(arguments.pop(), "banyan data show DIR N")
    for manifest in _datasets(arguments, "show"):
        tokenizer = load_tokenizer(manifest.tokenizer_file)
        show(f"{manifest.folder}: {_totals(manifest)}")
        for reader, first, stop in _first_documents(Shards(manifest), wanted):
            for document in reader.documents(first, stop):
                shown = min(document.stop - 1, document.start + SHOWN_TOKENS)
                text = as_text(tokenizer, reader.read(document.start, shown).tolist(), manifest.modalities)
                more = shown < document.stop - 1 or len(text) > SHOWN_CHARACTERS
                size = f"{document.bytes:,} bytes, {document.stop - document.start:,} tokens"
                name = one_line(manifest.source_name(document.source))
                show(f"\n--- {name}, record {document.record}: {size}")
                show(text[:SHOWN_CHARACTERS] + "…" * more)
    return 0


def _first_documents(readers: Iterable[TokenReader], wanted: int) -> list[tuple[TokenReader, int, int]]:
    """Readers with the token ranges [first, stop) of the first `wanted` documents."""
    ranges = []
    for reader in readers:
        ends = np.cumsum(reader.lengths(), dtype=np.int64)[:wanted]
        wanted -= len(ends)
        if len(ends):
            ranges.append((reader, 0, int(ends[-1])))
        if not wanted:
            break
    return ranges


def _number(text: str, usage: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{text}: not a whole number of at least 1; usage: {usage}.")
    return int(text)


# ----------------------------------------------------------------------------------------------------------- stats


def _stats(arguments: list[str]) -> int:
    """Prints totals, rejections, licences, rows by sequence length and the lengths of documents."""
    folder, *lengths = arguments or [""]
    row_lengths = [_number(length, "banyan data stats DIR [SEQUENCE_LENGTH …]") for length in lengths] or ROW_LENGTHS
    for manifest in _datasets([folder] if folder else [], "stats"):
        readers = open_shards(manifest)
        show(f"{manifest.folder}: {_totals(manifest)}")
        show(f"  fingerprint  {manifest.fingerprint}")
        show(f"  tokenizer    {manifest.tokenizer_name}, {manifest.vocab_size:,} tokens, {manifest.dtype}")
        show(f"  text         {manifest.text_bytes / max(1, manifest.tokens):.3f} bytes per token")
        show(f"  sources      {_sources(manifest)}")
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in manifest.rejected.items())
        show(f"  rejected     {rejected or 'none'}, of {manifest.documents_read:,} documents read for all splits")
        show("  rows of L tokens, and tokens in no row (tails of shards):")
        for length in row_lengths:
            rows, unused = _rows(manifest, length)
            show(f"    L={length:<6} {rows:>12,} rows {unused:>12,} tokens unused")
        show("  tokens per document:")
        _histogram(np.concatenate([np.empty(0, np.uint32), *(reader.lengths() for reader in readers)]))
    return 0


def _rows(manifest: Manifest, length: int) -> tuple[int, int]:
    """Rows of `length` tokens in all shards (stream_rows.py), and the tokens in none."""
    rows = rows_by_shard(manifest, length)
    if manifest.indexed is not None:
        return sum(rows), manifest.tokens - (sum(rows) * length + 1 if any(rows) else 0)
    used = sum(count * length + 1 for count in rows if count)  # a row reaches one token into the next one
    return sum(rows), manifest.tokens - used


def _histogram(lengths: np.ndarray) -> None:
    """Prints documents by length, in powers of two."""
    if not len(lengths):
        show("    no documents")
        return
    counts = np.bincount(np.frexp(lengths.astype(np.float64))[1] - 1)  # floor(log2(length))
    for power in range(int(np.flatnonzero(counts)[0]), len(counts)):
        bar = "█" * round(BAR_WIDTH * counts[power] / counts.max())
        show(f"    {2**power:>10,} to {2 ** (power + 1) - 1:>10,} {counts[power]:>12,} {bar}".rstrip())


def _sources(manifest: Manifest) -> str:
    return "; ".join(
        one_line(f"{group.input} ({len(group.files):,} files, licence {group.licence or 'not stated'})")
        for group in manifest.sources
    )


def _totals(manifest: Manifest) -> str:
    return (
        f"{manifest.documents:,} documents, {manifest.tokens:,} tokens, {manifest.text_bytes:,} bytes of text "
        f"in {len(manifest.shards)} shards"
    )


def _at(arguments: list[str]) -> int:
    """Prints what a run trained on at a step."""
    if len(arguments) != 2:
        raise ConfigError("usage: banyan data at RUN_DIR step=N.")
    from trainer.run.provenance import print_step, read_step

    return print_step(require_run_dir(arguments[0]), read_step(arguments[1]))


def _why(arguments: list[str]) -> int:
    """Prints what became of a document."""
    if len(arguments) != 2 or not arguments[1].startswith("id="):
        raise ConfigError("usage: banyan data why DIR id=FILE:RECORD, with a file of data.input and a record of it.")
    output = Path(arguments[0]).expanduser()
    found = find_fates(output, [read_manifest(folder) for folder in datasets_in(output)], arguments[1][3:])
    for line in found:
        show(one_line(line))
    return 0 if found else 2


def _thresholds(arguments: list[str]) -> int:
    """Prints what other thresholds would reject."""
    folders = [argument for argument in arguments if "=" not in argument]
    typed = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(folders) != 1 or len(typed) + 1 != len(arguments):
        raise ConfigError("usage: banyan data thresholds DIR data.clean.STAGE.RULE=VALUE …, each once.")
    from trainer.data.clean.thresholds import compare_thresholds, stored_cleaning, with_thresholds

    output = Path(folders[0]).expanduser()
    clean = with_thresholds(stored_cleaning(output, read_plan(output).settings), typed)
    for line in compare_thresholds(output, clean):
        show(one_line(line))
    return 0


# ------------------------------------------------------------------------------------------- commands of other rooms


def _room(module: str, name: str) -> Callable[[list[str]], int]:
    """A function of trainer.run, which is imported when it is asked for."""

    def command(arguments: list[str]) -> int:
        return int(getattr(importlib.import_module(f"trainer.run.{module}"), name)(arguments))

    return command


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "verify": _verify,
    "show": _show,
    "index": _index,
    "stats": _stats,
    "at": _at,
    "why": _why,
    "thresholds": _thresholds,
    "rekey": _room("data_key", "change_key"),
    "push": _room("data_sharing", "push_data"),
    "pull": _room("data_sharing", "pull_data"),
    "ls": _room("data_sharing", "list_data"),
    "trace": _room("data_trace", "trace_data"),
    "labels": _room("data_labels", "judge_annotations"),
}
