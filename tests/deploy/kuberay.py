"""What KubeRay's API (ray.io/v1) allows in a RayJob and a RayService, as JSON Schemas: no other field, no other type.

Held by hand against what KubeRay publishes: helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml of its commit
02a80a6f2abf (fields of the cluster and of a RayService, and which are required), and the types from which such files
are made, ray-operator/apis/ray/v1/*_types.go of 3275ee09f6a6, of 0057210ed5a9 for a RayJob. The files are a megabyte
each, nearly all of it Kubernetes' own pod template, for which the package kubernetes-validate has the schema. Fields
that our manifests don't use may be missing here: they would be refused in this test, not by KubeRay.
"""

from __future__ import annotations

from typing import Any

STRING, BOOLEAN, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
ANYTHING: dict[str, Any] = {"type": "object"}
MANAGER = {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]}
STRINGS = {"type": "object", "additionalProperties": STRING}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


AUTOSCALER = fields(
    resources=ANYTHING,
    image=STRING,
    imagePullPolicy=STRING,
    securityContext=ANYTHING,
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    command={"type": "array", "items": STRING},
    args={"type": "array", "items": STRING},
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    version={"enum": ["v1", "v2"]},
)
HEAD = fields(
    ("template",),
    serviceType=STRING,
    headService=ANYTHING,
    enableIngress=BOOLEAN,
    rayStartParams=STRINGS,
    template=ANYTHING,
)
WORKERS = fields(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=STRINGS,
    template=ANYTHING,
    scaleStrategy=ANYTHING,
    suspend=BOOLEAN,
)
CLUSTER = fields(
    ("headGroupSpec",),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    rayVersion=STRING,
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=STRINGS,
    gcsFaultToleranceOptions=ANYTHING,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, enableK8sTokenAuth=BOOLEAN, secretName=STRING),
    managedBy=MANAGER,
    suspend=BOOLEAN,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version, name = {"const": "ray.io/v1"}, fields(("name",), name=STRING, namespace=STRING, labels=STRINGS)
    required = ("apiVersion", "kind", "metadata", "spec")
    return fields(required, apiVersion=version, kind={"const": kind}, metadata=name, spec=spec)


SCHEMAS = {
    "RayService": resource(
        "RayService",
        fields(
            ("rayClusterConfig",),
            serveConfigV2=STRING,
            rayClusterConfig=CLUSTER,
            serveService=ANYTHING,
            upgradeStrategy=ANYTHING,
            excludeHeadPodFromServeSvc=BOOLEAN,
            managedBy=MANAGER,
            suspend=BOOLEAN,
        ),
    ),
    "RayJob": resource(
        "RayJob",
        fields(
            activeDeadlineSeconds={"type": "integer", "minimum": 1},
            backoffLimit=COUNT,
            rayClusterSpec=CLUSTER,
            submitterPodTemplate=ANYTHING,
            metadata=STRINGS,
            clusterSelector=STRINGS,
            submitterConfig=fields(backoffLimit=COUNT),
            managedBy=MANAGER,
            entrypoint=STRING,
            runtimeEnvYAML=STRING,
            jobId=STRING,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            entrypointNumCpus={"type": "number"},
            entrypointNumGpus={"type": "number"},
            entrypointResources=STRING,
            ttlSecondsAfterFinished=COUNT,
            shutdownAfterJobFinishes=BOOLEAN,
            suspend=BOOLEAN,
        ),
    ),
}
