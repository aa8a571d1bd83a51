"""Which of SageMaker's operations are rehearsed: the table of all that botocore knows.

Every operation is one of three. It is *acted on*, and its request's members are those of
`mmekit_local.sagemaker.control.members`. It *lists* what there can be none of here, and the list is
empty. Or it is *refused*, with the code that AWS has for a bad request and a sentence that says
why, and where it can be done. What nobody has looked at yet is refused, too.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from moto.core.utils import get_service_model

from mmekit_local.sagemaker.errors import AwsError, validation_exception

__all__ = ["ACTED_ON", "EMPTY", "REFUSED", "empty_list", "refusal", "subject_of"]

ACTED_ON = frozenset(
    {
        # Models
        "CreateModel",
        "DescribeModel",
        "ListModels",
        "DeleteModel",
        # Endpoint configs
        "CreateEndpointConfig",
        "DescribeEndpointConfig",
        "ListEndpointConfigs",
        "DeleteEndpointConfig",
        # Endpoints
        "CreateEndpoint",
        "DescribeEndpoint",
        "ListEndpoints",
        "UpdateEndpoint",
        "UpdateEndpointWeightsAndCapacities",
        "DeleteEndpoint",
        # The model registry
        "CreateModelPackage",
        "DescribeModelPackage",
        "ListModelPackages",
        "UpdateModelPackage",
        "CreateModelPackageGroup",
        "DescribeModelPackageGroup",
        "ListModelPackageGroups",
        # Tags, which are records and nothing more on AWS, too
        "AddTags",
        "ListTags",
        "DeleteTags",
    }
)

EMPTY = frozenset(
    {
        "ListAutoMLJobs",
        "ListClusters",
        "ListCompilationJobs",
        "ListDataQualityJobDefinitions",
        "ListDomains",
        "ListExperiments",
        "ListFeatureGroups",
        "ListHyperParameterTuningJobs",
        "ListInferenceComponents",
        "ListInferenceExperiments",
        "ListInferenceRecommendationsJobs",
        "ListLabelingJobs",
        "ListModelBiasJobDefinitions",
        "ListModelCards",
        "ListModelExplainabilityJobDefinitions",
        "ListModelQualityJobDefinitions",
        "ListMonitoringSchedules",
        "ListNotebookInstances",
        "ListOptimizationJobs",
        "ListPipelines",
        "ListProcessingJobs",
        "ListTrainingJobs",
        "ListTransformJobs",
        "ListTrialComponents",
        "ListTrials",
        "ListUserProfiles",
    }
)
"""Listing what can't be created here: there is none, and that is what is answered."""

_ELSEWHERE = "The same request works on AWS."
_FAMILIES: dict[str, str] = {
    # What it is about, as it follows the operation's verb: why, and where it can be done.
    (
        "TrainingJob HyperParameterTuningJob AutoMLJob CandidatesForAutoMLJob Algorithm "
        "TrainingPlan TrainingSession ReservedCapacity UltraServers Job JobSchemaVersion"
    ): (
        "Nothing is trained in SageMaker's place on this machine. Train with a notebook or a "
        "script, and put the model.tar.gz (`mme pack` makes it) into the bucket; or run the "
        "job on AWS and bring its artefact."
    ),
    "ProcessingJob": (
        "Processing jobs are not run on this machine. Run the job's script with Python here, "
        "or the job on AWS."
    ),
    "TransformJob": (
        "Batch transform is not run on this machine. Send the records to an endpoint "
        "(InvokeEndpoint, InvokeEndpointAsync), or run the job on AWS."
    ),
    "InferenceComponent": (
        "Inference components are not rehearsed on this machine. Give a variant a ModelName, "
        f"or a multi-model endpoint several archives. {_ELSEWHERE}"
    ),
    "InferenceGateway GlobalInferenceGateway": (  # of botocore 1.44.8
        f"There are no inference gateways on this machine. Invoke the endpoint itself. {_ELSEWHERE}"
    ),
    (
        "InferenceExperiment InferenceRecommendationsJob InferenceRouter AIBenchmarkJob "
        "AIRecommendationJob AIWorkloadConfig ScalingConfigurationRecommendation "
        "ModelMetadata"
    ): (
        "Experiments with endpoints and recommendations are AWS's own. Here `mme bench` "
        f"measures an endpoint, and several variants share its traffic. {_ELSEWHERE}"
    ),
    "Pipeline": (
        "Pipelines are not run on this machine. Do their steps from a notebook or a script, "
        "or run the pipeline on AWS."
    ),
    "CompilationJob OptimizationJob Edge Device StageDevices": (
        "Models are not compiled, optimised or sent to devices on this machine. Export to "
        f"ONNX or TorchScript instead. {_ELSEWHERE}"
    ),
    (
        "Monitoring DataQualityJobDefinition ModelBiasJobDefinition ModelQualityJobDefinition "
        "ModelExplainabilityJobDefinition"
    ): (
        "Model monitoring is not run on this machine; captured data (DataCaptureConfig) is "
        f"there to look at. {_ELSEWHERE}"
    ),
    "Experiment Trial Action Artifact Association Context Lineage Mlflow": (
        "Experiments and lineage are not kept on this machine. Use an MLflow of your own. "
        f"{_ELSEWHERE}"
    ),
    "ModelCard": f"Model cards are not kept on this machine. {_ELSEWHERE}",
    "ModelPackage": (
        "The model registry of this machine creates, describes, lists and updates packages, "
        f"one at a time, and nothing else. {_ELSEWHERE}"
    ),
    "ModelPackageGroupPolicy EndpointPolicy": (
        f"There is one account on this machine, and nobody to share with. {_ELSEWHERE}"
    ),
    "Search": (
        "Nothing is searched on this machine. ListEndpoints, ListModels and the other lists "
        "have filters."
    ),
    "Feature": f"There is no feature store on this machine. {_ELSEWHERE}",
    (
        "NotebookInstance Domain App Space UserProfile StudioLifecycleConfig Image "
        "CodeRepositor Presigned Project Sagemaker PartnerApp Aliases Session "
        "ResourceCatalogs"
    ): (
        "There are no notebooks and no Studio on this machine but your own: any Jupyter runs "
        f"against `mme up`. {_ELSEWHERE}"
    ),
    "Cluster ComputeQuota": f"There are no clusters on this machine. {_ELSEWHERE}",
    "Hub": (
        "There is no hub and no JumpStart on this machine. Download the model, pack it with "
        f"`mme pack` and create it from its archive. {_ELSEWHERE}"
    ),
    (
        "LabelingJob FlowDefinition HumanTaskUi UiTemplate Workforce Workteam SubscribedWorkteam"
    ): f"Nobody labels data on this machine. {_ELSEWHERE}",
}
REFUSED: dict[str, str] = {
    subject: sentence for subjects, sentence in _FAMILIES.items() for subject in subjects.split()
}
"""What a refused operation is about: the sentence that says why, and where it can be done."""

_SPELLED = re.compile(r"(?:Batch)?[A-Z][a-z]+(.*)")  # a verb, and what follows it


def subject_of(operation: str) -> str | None:
    """Return the entry of `REFUSED` that an operation belongs to; None when it has none.

    Examples
    --------
    >>> subject_of("ListTrainingJobsForHyperParameterTuningJob")
    'TrainingJob'
    >>> subject_of("BatchDeleteClusterNodes")
    'Cluster'
    >>> subject_of("CreateSomethingNew") is None
    True
    """
    found = _SPELLED.fullmatch(operation)
    if found is None:
        return None
    rest = found[1] or operation  # Search
    matching = [subject for subject in REFUSED if rest.startswith(subject)]
    # The longest: ModelPackageGroupPolicy begins with ModelPackage, and has its own sentence.
    return max(matching, key=len, default=None)


def refusal(operation: str) -> AwsError | None:
    """Return why an operation of botocore's is not rehearsed; None for one that is."""
    if operation in ACTED_ON or operation in EMPTY:
        return None
    subject = subject_of(operation)
    why = _ELSEWHERE if subject is None else REFUSED[subject]
    return validation_exception(f"{operation} is not rehearsed here. {why}")


@cache
def empty_list(operation: str) -> dict[str, Any]:
    """Return the answer of an operation of `EMPTY`."""
    shape: Any = get_service_model("sagemaker").operation_model(operation).output_shape
    return {name: [] for name, member in shape.members.items() if member.type_name == "list"}
