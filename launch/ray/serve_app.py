"""`banyan serve launch=ray`: replicas of the server on a Ray cluster behind one route, by Ray Serve.

    banyan serve launch=ray launch.workers=2 path=FOLDER         two replicas
    banyan serve launch=ray launch.workers=[1,8] path=FOLDER     as many as the load asks for

A replica is the same application as without Ray: one that dies is started again, and requests go to the others
meanwhile. On Kubernetes, deploy/kubernetes/serve.yaml has KubeRay call `build`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.ray import cluster
from launch.ray.launcher import receiving
from trainer.config.launchers import workers_of
from trainer.config.serve import Serve
from trainer.config.values import check_values
from trainer.data.examples.template import NAMED
from trainer.errors import BanyanError, ConfigError
from trainer.machine.hub_name import is_hub_name
from trainer.serve.listener import listen
from trainer.serve.model_folder import find_served_model
from trainer.serve.server import check_serving, require_front
from trainer.serve.service import Service

NAME = "banyan"
LOOK_S = 0.2
SETTLE_S = 3600.0


class Replica:
    """One server. `overrides` are what was typed after `banyan serve`, with whole paths."""

    async def __init__(self, overrides: Sequence[str]) -> None:  # type: ignore[misc]  # Ray awaits it
        from launch.compose import compose

        config = compose("serve", overrides)
        check_values(config)
        self._clients = check_serving(config)
        self._service = Service(config, lambda line: print(line, flush=True))
        await self._service.start()

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve sends requests to."""
        from trainer.serve.front import build_app

        return build_app(self._service, self._clients)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises."""
        if self._service.current is None:
            raise RuntimeError("no model")

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.close()


def build(arguments: dict[str, Any]) -> Any:
    """The Ray Serve application. `arguments`: overrides; replicas, [least, most]; cpus and gpus of each."""
    from ray import serve

    from launch.compose import compose

    overrides = [str(override) for override in arguments["overrides"]]
    settings = compose("serve", overrides).serve
    least, most = arguments["replicas"]
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": settings.slots}
    scaling |= {"upscale_delay_s": settings.scale_up_s, "downscale_delay_s": settings.scale_down_s}
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        autoscaling_config=scaling,
        max_ongoing_requests=settings.slots + settings.waiting,
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": arguments.get("cpus", 1), "num_gpus": arguments.get("gpus", 0)},
    )
    return deployment.bind(overrides)


def run(config: Serve, arguments: Sequence[str]) -> int:
    """Serves on the cluster until it is told to end; the exit code."""
    check_values(config)
    require_front()
    check_serving(config)
    if config.serve.tls_cert:
        raise ConfigError(
            "serve.tls_cert with launch=ray: Ray's proxies speak no TLS; leave it out, and end TLS in front of them."
        )
    least, most = workers_of(config.launch)
    overrides = _for_replicas(config, arguments)
    with cluster.connected():
        demand = cluster.demand_of(config.launch, (least, most), 1)
        cluster.require_room(demand)
        replicas = {"replicas": [least, most], "cpus": demand.cpus, "gpus": demand.gpus}
        with receiving() as received, _alone():
            return _serve(config, {"overrides": overrides, **replicas}, received)


class ServeDriver:
    """A named actor that ends with the command that made it, however that ends."""


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While it lasts this command alone serves on the cluster; what a killed one has left there is ended.

    ConfigError where another one serves: all of a cluster's applications are behind one port, and end together.
    """
    import ray
    from ray import serve

    actor: Any = ray.remote(ServeDriver)
    try:
        mark = actor.options(name=f"{NAME}-serve", namespace=NAME, num_cpus=0).remote()
    except ValueError as error:
        raise ConfigError(
            "launch=ray: another `banyan serve` answers on this cluster; end that first, or take another cluster."
        ) from error
    found = set(serve.status().applications)
    if found - {NAME}:
        raise ConfigError(
            f"launch=ray: Ray Serve runs {', '.join(sorted(found - {NAME}))} on this cluster, and has one port for "
            "all; end that first, or take another cluster."
        )
    if found:
        print("ending the replicas of a command that was killed", flush=True)
        serve.shutdown()
    try:
        yield
    finally:
        del mark


def _serve(config: Serve, arguments: dict[str, Any], received: Sequence[int]) -> int:
    from ray import serve
    from ray.serve.config import HTTPOptions

    settings = config.serve
    for each in listen(settings):  # Ray's own word for a port that is taken is a stack of its own calls
        each.close()
    serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port))
    try:
        target = serve.RunTarget(build(arguments), name=NAME, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        _settle(serve, received)
        least, most = arguments["replicas"]
        count = str(least) if least == most else f"{least} to {most}"
        if not received:
            print(f"serving at http://{settings.host}:{settings.port}/ (API: /v1), replicas: {count}", flush=True)
        while not received:
            time.sleep(LOOK_S)
        print("draining: no more requests are taken", flush=True)
    finally:
        serve.delete(NAME)
        serve.shutdown()
    print("ended", flush=True)
    return 0


def _settle(serve: Any, received: Sequence[int]) -> None:
    """Waits until the replicas answer. BanyanError where they can't."""
    deadline = time.monotonic() + SETTLE_S
    while not received and time.monotonic() < deadline:
        found = serve.status().applications.get(NAME)
        if found is not None and found.status == "RUNNING":
            return
        if found is not None and found.status == "DEPLOY_FAILED":
            lines = [line for line in found.message.splitlines() if "Error: " in line] or found.message.splitlines()
            raise BanyanError(f"launch=ray: no replica starts: {lines[-1].strip() if lines else 'no reason given'}")
        time.sleep(LOOK_S)


def _for_replicas(config: Serve, arguments: Sequence[str]) -> list[str]:
    """What was typed, with paths that mean the same in the replicas' folders, and the checkpoint that all answer by.

    A replica that starts later, as the load grows, must not take a newer one. ConfigError, InputError where the model
    can't be served; a run's checkpoint is exported here, once.
    """
    if config.run.dir is None and config.path is None:
        raise ConfigError("launch=ray: give run.dir=RUN or path=FOLDER, which all nodes of the cluster see.")
    model = find_served_model(config.run, config.checkpoint, config.path)
    named = {"run.dir": config.run.dir, "path": config.path, "serve.keys": config.serve.keys}
    if config.chat_template is not None and config.chat_template not in NAMED:
        named["chat_template"] = config.chat_template
    given = {key: value for key, value in named.items() if value is not None and not is_hub_name(value)}
    whole = [f"{key}={_absolute(value)}" for key, value in given.items()]
    if model.step is not None and not config.serve.follow:
        whole.append(f"checkpoint.step={model.step}")
    if config.serve.moderation:
        whole.append(f"serve.moderation=[{','.join(map(_absolute, config.serve.moderation))}]")
    return [*arguments, *whole]


def _absolute(name: str) -> str:
    return str(Path(name).expanduser().absolute())
