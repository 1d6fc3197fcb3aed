"""What cleaning can't do is refused before the first document: unknown stages, packages and files that aren't there."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from trainer.config.clean import CHANGING, PERSONAL_KINDS, STAGES, Clean, GopherQuality
from trainer.config.data import Data
from trainer.data.clean.identity import clean_identity, named_files, needed_packages
from trainer.data.clean.models import EXTRAS, FASTTEXT, KENLM, SENTENCEPIECE, labels_of, language_codes, try_model
from trainer.data.text.libraries import EXTRA, library
from trainer.data.text.plan import PreparationPlan, read_plan
from trainer.errors import require

MOST_NAMED = 12  # labels that an error lists
NEEDED_FILES = {  # by stage: the keys of which one at least names a file
    "url_list": ("domains", "urls", "words", "soft_words", "substrings"),
    "block_list": ("files",),
    "contamination": ("files",),
    "perplexity": ("model",),
    "classifier": ("model",),
}
NEEDED_WORDS = {
    "url_list": "lists (or urls, words, soft_words, substrings)",
    "block_list": "files",
    "contamination": "files",
    "perplexity": "a model of KenLM",
    "classifier": "a model of fastText",
}


def check_clean(clean: Clean) -> None:
    """Refuses a cleaning that can't work, in one line."""
    for stage in clean.stages:
        require(stage in STAGES, f"data.clean.stages: {stage} is no stage; choose among {', '.join(STAGES)}.")
        require(
            stage in CHANGING or clean.stages.count(stage) == 1,
            f"data.clean.stages names {stage} twice: a stage that rejects has one table of values; leave one out.",
        )
    for kind in clean.personal.kinds:
        require(
            kind in PERSONAL_KINDS,
            f"data.clean.personal.kinds: {kind} is not known; choose among {', '.join(PERSONAL_KINDS)}.",
        )
    for module, (package, what) in needed_packages(clean).items():
        extra = EXTRAS.get(module, EXTRA)
        require(
            find_spec(module) is not None,
            f'{what} needs the package {package}, which is missing: pip install "banyan-train[{extra}]".',
        )
    _check_bounds(clean)
    _check_files(clean)
    _check_languages(clean)
    if "gopher_quality" in clean.stages and clean.gopher_quality.lowest_stop_words:
        require(
            bool(clean.gopher_quality.stop_words),
            "data.clean.gopher_quality.stop_words is empty: name the language's stop words, or set "
            "data.clean.gopher_quality.lowest_stop_words=null.",
        )


def _check_bounds(clean: Clean) -> None:
    """Refuses stages that would reject every document, since their bounds leave nothing between them."""
    for stage in clean.stages:
        section = getattr(clean, stage, None)
        for rule in dataclasses.fields(section) if dataclasses.is_dataclass(section) else ():
            low, other = getattr(section, rule.name), rule.name.replace("lowest", "highest", 1)
            high = getattr(section, other, None) if other != rule.name else None
            require(
                low is None or high is None or low <= high,
                f"data.clean.{stage}.{rule.name}={low} is more than {other}={high}: no document would stay.",
            )


def _check_languages(clean: Clean) -> None:
    """Refuses languages and regions that nobody knows, and English stop words for other languages."""
    key, keep = "data.clean.language.keep", clean.language.keep
    if "language" in clean.stages:
        known = language_codes()
        require(bool(keep), f"{key} is empty: name the languages that stay, or leave out the stage language.")
        for code in keep:
            require(code in known, f"{key}: {code} isn't known; choose among {', '.join(known)}.")
        require(
            "gopher_quality" not in clean.stages
            or not clean.gopher_quality.lowest_stop_words
            or "en" in keep
            or clean.gopher_quality.stop_words != GopherQuality().stop_words,
            f"data.clean.gopher_quality.stop_words are English, and {key}=[{','.join(keep)}]: name that language's, or "
            "set data.clean.gopher_quality.lowest_stop_words=null.",
        )
    if "personal" in clean.stages and "phone" in clean.personal.kinds:
        key = "data.clean.personal.regions"
        for region in clean.personal.regions:
            supported = region in library("phonenumbers", key).SUPPORTED_REGIONS
            require(supported, f"{key}: {region} is no region with phone numbers; write ISO 3166 codes, such as GB.")


def _check_files(clean: Clean) -> None:
    """Refuses lists and models that aren't there, and stages without those that they need."""
    files = named_files(clean)
    for key, named in files.items():
        for file in named:
            path = Path(file).expanduser()
            require(path.is_file(), f"{key}: {path} is no file.")
    for stage, needed in NEEDED_FILES.items():
        keys = [f"data.clean.{stage}.{name}" for name in needed]
        require(
            stage not in clean.stages or any(files[key] for key in keys),
            f"{keys[0]} is {'empty' if needed[0].endswith('s') else 'not set'}: name {NEEDED_WORDS[stage]} for the "
            f"stage {stage}, or leave it out of data.clean.stages.",
        )
    if "perplexity" in clean.stages:
        try_model(KENLM, str(clean.perplexity.model), "data.clean.perplexity.model")
        if clean.perplexity.pieces is not None:
            try_model(SENTENCEPIECE, clean.perplexity.pieces, "data.clean.perplexity.pieces")
    if "classifier" in clean.stages:
        key, label = "data.clean.classifier.label", clean.classifier.label
        try_model(FASTTEXT, str(clean.classifier.model), "data.clean.classifier.model")
        known = labels_of(str(clean.classifier.model), key)
        shown = f"{', '.join(known[:MOST_NAMED])}{' …' * (len(known) > MOST_NAMED)}"
        require(label is not None, f"{key} is not set: choose among the model's labels, {shown}.")
        require(label in known, f"{key}: the model has no label {label}; choose among {shown}.")


def check_signals(clean: Clean, plan: PreparationPlan) -> None:
    """Refuses an output whose values can't be used: of other inputs, or counted otherwise."""
    if clean.signals_from is None:
        return
    from trainer.data.clean.record import DOCUMENTS
    from trainer.data.clean.thresholds import other_settings  # compiled code: only where it is wanted

    key, folder = f"data.clean.signals_from={clean.signals_from}", Path(clean.signals_from).expanduser()
    require(bool(clean.stages), f"{key} is for the stages of data.clean.stages, which are none: leave it out.")
    stored = read_plan(folder)
    require(any((folder / DOCUMENTS).glob("*.signals.zst")), f"{key}: prepared without data.clean.signals=true.")
    require(stored.inputs == plan.inputs, f"{key}: prepared from other files, or of another time; leave it out.")
    difference = other_settings(clean, stored.settings, clean_identity(clean))
    require(not difference, f"{key}: only thresholds may differ ({difference}); leave it out, and all is counted anew.")


def check_near(data: Data) -> None:
    """Refuses a search for near-duplicates that can't work."""
    if not data.near_duplicates:
        return
    require(data.deduplicate, "data.near_duplicates=true needs data.deduplicate=true: equal documents are near, too.")
    require(
        find_spec("numba") is not None,
        'data.near_duplicates needs the package numba, which is missing: pip install "banyan-train[data]".',
    )
    for folder in data.near.against:
        path = Path(folder).expanduser() / "near_duplicates" / "index.json"
        require(
            path.is_file(),
            f"data.near.against: {folder} has no index; prepare it with data.near_duplicates=true and "
            "data.near.index=true.",
        )
