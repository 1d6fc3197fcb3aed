"""Data sets in a store that others read.

banyan data push data.path=DIR data.store=s3://bucket/sets [track.wandb.KEY=VALUE] …
banyan data pull FINGERPRINT data.store=s3://bucket/sets data.output=DIR
banyan data ls data.store=s3://bucket/sets [format=json]
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from trainer.config import Wandb
from trainer.data.share.describe_set import LocalSet, describe_set
from trainer.data.share.listing import list_sets, set_table, sets_as_json
from trainer.data.share.pull import find_set, pull_set, read_whole_set
from trainer.data.share.push import push_set
from trainer.data.share.set_store import open_set_store
from trainer.data.share.shared_set import FILE, SharedSet, licence_lines
from trainer.data.text.progress import say
from trainer.data.text.remote import is_remote, shown_url
from trainer.data.tokens.manifest import datasets_in, read_manifest
from trainer.errors import BanyanError, ConfigError, InputError
from trainer.machine.terminal import one_line, show
from trainer.report.data_card.gather import gather_card
from trainer.report.data_card.markdown import card_as_markdown
from trainer.report.data_card.page import card_as_html
from trainer.run.lineage import data_references
from trainer.run.recorded import record_data
from trainer.run.share_settings import PULL_USAGE, PUSH_USAGE, ShareSettings, read_share_settings
from trainer.run.wandb_overrides import wandb_settings
from trainer.track.lineage import CARD_FILES, ArtifactRecord, data_artifact
from trainer.track.wandb_service import asked_mode

MOST_REFERENCES = 10_000  # of an artifact; of more files, those that hash the others are referred to
SHOWN_LICENCES = 20


def push_data(arguments: list[str]) -> int:
    """`banyan data push`: the exit code."""
    settings = read_share_settings(arguments, PUSH_USAGE, words="data.path", keys=("data.push.wandb", "track.wandb."))
    folder = Path(settings.require("data.path", "the data to push, an output of prepare or a data set")).expanduser()
    store = open_set_store(settings.require("data.store", "a folder or bucket, as s3://bucket/sets"), writes=True)
    wandb, mode = _asked_wandb(settings)
    local = _with_card(folder)
    say("set", f"{local.described.name}, {local.described.fingerprint}: {_totals(local.described)}")
    _say_licences(local.described)
    address = push_set(local, store, settings.workers, say)
    say(
        "pull",
        f"banyan data pull {local.described.fingerprint[:12]} data.store={shown_url(store.address)} data.output=DIR",
    )
    return 0 if mode is None else _record_push(local, address, wandb, mode)


def _asked_wandb(settings: ShareSettings) -> tuple[Wandb, str | None]:
    """W&B's settings, and its mode; None where nobody asked for it."""
    wandb = wandb_settings({}, settings.wandb, "data push")
    switch = settings.flag("data.push.wandb")
    mode = asked_mode(wandb)
    if switch is False:
        return wandb, None
    return wandb, (mode or asked_mode(replace(wandb, mode="online"))) if switch else mode


def _with_card(folder: Path) -> LocalSet:
    """The set in a folder, with its card: that which lies there, or else one that is made for those who pull.

    A card has samples of the texts: encrypted data go without one.
    """
    if any(read_manifest(each).encryption for each in datasets_in(folder)):
        say("card", "none: the data are encrypted, and a card would show some of them")
        return describe_set(folder)
    if all((folder / name).is_file() for name in CARD_FILES):
        return describe_set(folder, CARD_FILES)
    describe_set(folder, hash_file=lambda path: "")  # refuses, before anything is counted
    page, markdown = CARD_FILES
    try:
        card = gather_card(folder, say=lambda line: show(one_line(line)))
    except BanyanError as error:
        say("card", f"none: {error}")
        return describe_set(folder, CARD_FILES)
    made = {page: card_as_html(card).encode(), markdown: card_as_markdown(card).encode()}
    return describe_set(folder, (), made)


def _totals(described: SharedSet) -> str:
    return f"{described.documents:,} documents, {described.tokens:,} tokens in {', '.join(described.fingerprints)}"


def _say_licences(described: SharedSet) -> None:
    lines = licence_lines(described.licences)
    for line in lines[:SHOWN_LICENCES]:
        say("licence", line)
    if len(lines) > SHOWN_LICENCES:
        say("licence", f"and of {len(lines) - SHOWN_LICENCES:,} more sources, in LICENCES.md")


def _record_push(local: LocalSet, address: str, wandb: Wandb, mode: str) -> int:
    """The set as an artifact that refers to the store."""
    (reference,) = data_references([read_manifest(each) for each in datasets_in(local.folder)])
    described = local.described
    paths = [file.path for file in described.files]
    if len(paths) >= MOST_REFERENCES:
        paths = [file.path for file in described.manifests]
    paths = [*paths, FILE]
    is_url = is_remote(address)
    artifact: ArtifactRecord = replace(
        data_artifact(reference),
        references={},
        files=(),
        unhashed={} if is_url else {path: Path(address, path) for path in paths},
        addresses={path: f"{address}/{path}" for path in paths} if is_url else {},
    )
    licences = {each.source: each.licence for each in described.licences}
    metadata = {**artifact.metadata, "store": address, "fingerprint": described.fingerprint, "licences": licences}
    return record_data(reference, replace(artifact, metadata=metadata), local.folder, wandb, mode)


def pull_data(arguments: list[str]) -> int:
    """`banyan data pull`: the exit code."""
    settings = read_share_settings(arguments, PULL_USAGE, words="fingerprint")
    wanted = settings.require("fingerprint", "the set's, or its first digits").lower()
    if not 4 <= len(wanted) <= 64 or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(f"{wanted}: a fingerprint is 64 hexadecimal digits; give 4 of them at least.")
    store = open_set_store(settings.require("data.store", "a folder or URL with sets, as s3://bucket/sets"))
    output = Path(settings.require("data.output", "the folder that the set shall be in")).expanduser().absolute()
    described = read_whole_set(store, find_set(store, wanted))
    say("set", f"{described.name}, {described.fingerprint}: {_totals(described)}")
    _say_licences(described)
    pull_set(store, described, output, settings.workers, say)
    say("train", f"banyan pretrain data.path={output}")
    return 0


def list_data(arguments: list[str]) -> int:
    """`banyan data ls`: the exit code, 2 if a set there can't be read."""
    usage = "banyan data ls data.store=FOLDER_OR_URL [format=json]"
    settings = read_share_settings(arguments, usage, words="data.store", keys=("format",))
    store = open_set_store(settings.require("data.store", "a folder or URL with sets, as s3://bucket/sets"))
    form = settings.typed.get("format", "text")
    if form not in ("text", "json"):
        raise ConfigError(f"format={form}: choose text or json.")
    found = list_sets(store)
    if form == "json":
        print(json.dumps(sets_as_json(store, found), indent=1, ensure_ascii=True))
    elif not found:
        raise InputError(f"{shown_url(store.address)}: no set there; push one by {PUSH_USAGE}.")
    else:
        for line in set_table(found):
            show(one_line(line))
    return 2 if any(each.described is None for each in found) else 0
