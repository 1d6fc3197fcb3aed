"""What cleaning can't do is refused before the first document: unknown stages, packages and files that aren't there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from trainer.config.clean import PERSONAL_KINDS, STAGES, Clean
from trainer.config.data import Data
from trainer.data.clean.identity import named_files, needed_packages
from trainer.errors import require


def check_clean(clean: Clean) -> None:
    """Refuses a cleaning that can't work, in one line."""
    for stage in clean.stages:
        require(stage in STAGES, f"data.clean.stages: {stage} is no stage; choose among {', '.join(STAGES)}.")
    for kind in clean.personal.kinds:
        require(
            kind in PERSONAL_KINDS,
            f"data.clean.personal.kinds: {kind} is not known; choose among {', '.join(PERSONAL_KINDS)}.",
        )
    for module, (package, what) in needed_packages(clean).items():
        require(
            find_spec(module) is not None,
            f'{what} needs the package {package}, which is missing: pip install "banyan-train[data]".',
        )
    for stage, files in named_files(clean).items():
        require(bool(files), f"data.clean.{stage}.files is empty: name files for the stage {stage}, or leave it out.")
        for file in files:
            path = Path(file).expanduser()
            require(path.is_file(), f"data.clean.{stage}.files: {path} is no file.")
    if "gopher_quality" in clean.stages and clean.gopher_quality.lowest_stop_words:
        require(
            bool(clean.gopher_quality.stop_words),
            "data.clean.gopher_quality.stop_words is empty: name the language's stop words, or set "
            "data.clean.gopher_quality.lowest_stop_words=null.",
        )


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
