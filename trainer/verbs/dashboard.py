"""`banyan dashboard`: makes or updates a project's W&B workspace and report, from a specification in a file.

banyan dashboard                                        conf/dashboard/project.yaml, to the project of track.wandb
banyan dashboard dashboard=FILE track.wandb.project=NAME track.wandb.entity=TEAM
banyan dashboard dashboard.output=DIR                   DIR/workspace.json and DIR/report.json; no network is used
"""

from __future__ import annotations

from pathlib import Path

from trainer.config.dashboard import Dashboard
from trainer.config.values import check_values
from trainer.machine.durable import make_folder, write_bytes
from trainer.machine.terminal import one_line, show
from trainer.track.dashboard.build import View, build_report, build_workspace, import_workspaces, view_json
from trainer.track.dashboard.check import check_dashboard
from trainer.track.dashboard.post import post_views
from trainer.track.wandb_service import WandbError, choose_mode

FOLDER = "dashboards"  # without access to W&B


def main(config: Dashboard) -> int:
    """The verb; 1 where W&B was asked for and didn't take it: the JSON is written then."""
    check_values(config)
    spec = config.dashboard
    check_dashboard(spec, spec.file or "dashboard")
    import_workspaces()
    views = {"workspace": build_workspace(spec), "report": build_report(spec)}
    output, wandb = spec.output, config.track.wandb
    if output is not None or choose_mode(wandb, say=lambda line: None) != "online":
        write_views(views, Path(output or FOLDER).expanduser())
        if output is None:
            show(
                "W&B isn't changed: there is no key for it, or WANDB_MODE or track.wandb.mode says offline or disabled."
            )
        return 0
    try:
        posted = post_views(list(views.values()), wandb)
    except WandbError as error:
        show(one_line(f"{error} The dashboard isn't changed; run the same command again."))
        write_views(views, Path(FOLDER))
        return 1
    for name, each in zip(views, posted, strict=True):
        show(one_line(f"{name:<10} {'made' if each.is_new else 'updated'}: {each.url}"))
    return 0


def write_views(views: dict[str, View], folder: Path) -> None:
    """Writes the views as JSON that can be committed: the same specification, the same bytes."""
    make_folder(folder)
    for name, view in views.items():
        write_bytes(folder / f"{name}.json", view_json(view))
        show(one_line(f"{name:<10} written: {folder / f'{name}.json'}"))
