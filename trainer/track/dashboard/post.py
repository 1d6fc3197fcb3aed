"""Posts the views of a dashboard to W&B: one that was made before is updated, found by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from trainer.config import Wandb
from trainer.track.dashboard.build import REPORT, WORKSPACE, View
from trainer.track.wandb_service import WandbError, import_wandb, in_a_line, within

PAGE = 100  # views that are asked for at once
LISTED = """query View($entityName: String, $name: String, $viewType: String = "runs", $first: Int, $after: String) {
  project(name: $name, entityName: $entityName) {
    allViews(viewType: $viewType, first: $first, after: $after) {
      edges { node { id name displayName } }
      pageInfo { endCursor hasNextPage }
    }
  }
}"""
UPSERTED = """mutation {operation}($id: ID, $entityName: String, $projectName: String, $type: String, $name: String,
    $displayName: String, $description: String, $spec: String) {{
  upsertView(input: {{id: $id, entityName: $entityName, projectName: $projectName, name: $name,
      displayName: $displayName, description: $description, type: $type, spec: $spec, createdUsing: WANDB_SDK}}) {{
    view {{ id name }}
    inserted
  }}
}}"""
OPERATIONS = {WORKSPACE: "UpsertView2", REPORT: "upsertView"}  # as wandb-workspaces calls them


@dataclass(frozen=True)
class Posted:
    """A view as W&B has it now."""

    view: View
    url: str
    is_new: bool


def post_views(views: list[View], settings: Wandb) -> list[Posted]:
    """Makes or updates the views in the project of `settings`. WandbError where the server refuses or is silent."""
    posted: list[Posted] = []

    def work() -> None:
        project = WandbProject(settings)
        posted.extend(project.post(view) for view in views)

    try:
        within(len(views) * settings.init_timeout_s + settings.init_timeout_s, work)
    except Exception as error:
        raise WandbError(f"W&B: {in_a_line(error)}.") from error
    return posted


class WandbProject:
    """A project at the server; it is made if it isn't there."""

    def __init__(self, settings: Wandb) -> None:
        self._api = import_wandb().Api(timeout=max(1, int(settings.init_timeout_s)))
        self._entity = settings.entity or self._own_entity()
        self._project = settings.project
        self._known = False

    def post(self, view: View) -> Posted:
        """Makes the view, or updates the one of its name."""
        found = next((node["id"] for node in self._views(view.kind) if node.get("name") == view.name), None)
        if not self._known:
            self._api.create_project(self._project, self._entity)
            self._known = True
        variables = {
            "entityName": self._entity,
            "projectName": self._project,
            "name": view.name,
            "displayName": view.title,
            "description": view.description,
            "type": view.kind,
            "spec": json.dumps(view.spec),
        }
        if found is not None:
            variables["id"] = found
        answer = self._ask(UPSERTED.format(operation=OPERATIONS[view.kind]), variables)
        made = (answer.get("upsertView") or {}).get("view") or {}
        if not made.get("id"):
            raise WandbError(f"the {self._entity}/{self._project} project takes no views")
        return Posted(view, self._url(view, str(made["id"]), str(made.get("name") or view.name)), found is None)

    def _own_entity(self) -> str:
        """The user's or the team's that the key is of."""
        entity = (self._ask("query Viewer { viewer { id entity username } }", {}).get("viewer") or {}).get("entity")
        if not entity:
            raise WandbError("no entity is known; set track.wandb.entity")
        return str(entity)

    def _views(self, kind: str) -> Iterator[dict[str, Any]]:
        """The project's views of a kind."""
        after = None
        while True:
            place = {"entityName": self._entity, "projectName": self._project, "name": self._project}
            answer = self._ask(LISTED, {**place, "viewType": kind, "first": PAGE, "after": after})
            project = answer.get("project")
            if project is None:
                return
            self._known = True
            views = project.get("allViews") or {}
            yield from (edge["node"] for edge in views.get("edges") or [])
            page = views.get("pageInfo") or {}
            if not page.get("hasNextPage") or page.get("endCursor") == after:
                return
            after = page["endCursor"]

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        from wandb_workspaces._graphql import execute_graphql

        return execute_graphql(self._api, query, variables) or {}

    def _url(self, view: View, view_id: str, name: str) -> str:
        from wandb_workspaces._graphql import get_app_url

        base = f"{get_app_url(self._api).rstrip('/')}/{quote(self._entity)}/{quote(self._project)}"
        if view.kind == WORKSPACE:
            return f"{base}?nw={name.removeprefix('nw-').removesuffix('-v')}"
        return f"{base}/reports/{quote(view.title.replace(' ', '-'))}--{view_id}"
