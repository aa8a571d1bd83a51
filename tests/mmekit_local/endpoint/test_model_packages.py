"""From the model registry to an endpoint: a model may be made of a model package."""

import pytest

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
ROLE = "arn:aws:iam::123456789012:role/Rehearsal"


def inference(**more):
    container = {
        "Image": IMAGE,
        "ModelDataUrl": "s3://models/only.tar.gz",
        "Environment": {"COLOUR": "red"},
    }
    return {
        "Containers": [container | more],
        "SupportedContentTypes": ["text/csv"],
        "SupportedResponseMIMETypes": ["text/csv"],
        "SupportedRealtimeInferenceInstanceTypes": ["ml.m5.large"],
        "SupportedTransformInstanceTypes": ["ml.m5.large"],
    }


@pytest.fixture(scope="module", autouse=True)
def group(service):
    service.put("only.tar.gz", service.echo_archive())
    service.client("sagemaker").create_model_package_group(ModelPackageGroupName="Churn")
    return "Churn"


def version(service, **more):
    """Create one more version and return its ARN."""
    return service.client("sagemaker").create_model_package(
        ModelPackageGroupName="Churn", **{"InferenceSpecification": inference()} | more
    )["ModelPackageArn"]


def make(service, name, package, **more):
    service.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"ModelPackageName": package, **more},
    )


def serve(service, name):
    sagemaker = service.client("sagemaker")
    one = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[one | {"InitialInstanceCount": 1}]
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    service.wait_for("endpoint_in_service", name)
    [found] = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
    assert found["DeployedImages"][0]["SpecifiedImage"] == IMAGE
    return service.seen(name)


def test_a_version_is_deployed_once_it_is_approved(service):
    sagemaker = service.client("sagemaker")
    arn = version(service)
    described = sagemaker.describe_model_package(ModelPackageName=arn)
    assert described["ModelApprovalStatus"] == "PendingManualApproval"
    with pytest.raises(sagemaker.exceptions.ClientError, match="must be Approved to deploy"):
        make(service, "too-early", arn)
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    sagemaker.update_model_package(ModelPackageArn=arn, ApprovalDescription="it is good")
    make(service, "approved", arn, Environment={"MORE": "1"})
    assert serve(service, "approved")["environment"]["COLOUR"] == "red"
    container = sagemaker.describe_model(ModelName="approved")["PrimaryContainer"]
    assert container == {"ModelPackageName": arn, "Environment": {"MORE": "1"}}
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")
    with pytest.raises(sagemaker.exceptions.ClientError, match="is Rejected"):
        make(service, "too-late", arn)


def test_each_version_is_its_own(service):
    first = version(service, ModelApprovalStatus="Approved")
    second = version(
        service,
        ModelApprovalStatus="Approved",
        InferenceSpecification=inference(Environment={"COLOUR": "green"}),
    )
    assert first != second
    make(service, "latest", second, Environment={"COLOUR": "own"})
    assert serve(service, "latest")["environment"]["COLOUR"] == "own"


def test_a_package_without_a_group_is_named_by_its_name(service):
    sagemaker = service.client("sagemaker")
    arn = sagemaker.create_model_package(
        ModelPackageName="Alone", InferenceSpecification=inference()
    )["ModelPackageArn"]
    assert arn.endswith(":model-package/alone")
    for number, name in enumerate(["Alone", "alone", arn]):
        make(service, f"alone-{number}", name)
    assert serve(service, "alone-0")["environment"]["COLOUR"] == "red"


def test_a_group_is_no_package(service, group):
    version(service, ModelApprovalStatus="Approved")
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match="is a model package group"):
        make(service, "of-a-group", group)


@pytest.mark.parametrize(
    "name",
    ["nothing", "arn:aws:sagemaker:us-east-1:123456789012:model-package/churn/999"],
)
def test_a_package_that_is_not_there_is_refused(service, name):
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match="does not exist"):
        make(service, "of-nothing", name)


def test_a_package_of_an_algorithm_is_refused(service):
    sagemaker = service.client("sagemaker")
    algorithm = {"AlgorithmName": "arn:aws:sagemaker:us-east-1:123456789012:algorithm/own"}
    with pytest.raises(sagemaker.exceptions.ClientError, match="SourceAlgorithmSpecification"):
        sagemaker.create_model_package(
            ModelPackageGroupName="Churn",
            ModelApprovalStatus="Approved",
            SourceAlgorithmSpecification={"SourceAlgorithms": [algorithm]},
        )


def test_a_package_that_says_no_image_is_refused(service):
    sagemaker = service.client("sagemaker")
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="Churn", ModelApprovalStatus="Approved"
    )["ModelPackageArn"]
    with pytest.raises(sagemaker.exceptions.ClientError, match="no InferenceSpecification"):
        make(service, "without", arn)


def test_a_package_that_wants_to_be_validated_is_refused(service):
    sagemaker = service.client("sagemaker")
    job = {
        "MaxConcurrentTransforms": 1,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}
        },
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    profile = {"ProfileName": "one", "TransformJobDefinition": job}
    with pytest.raises(sagemaker.exceptions.ClientError, match="transform jobs"):
        version(
            service,
            ValidationSpecification={"ValidationRole": ROLE, "ValidationProfiles": [profile]},
        )


def test_a_further_specification_is_chosen_by_its_name(service):
    further = inference(Environment={"COLOUR": "further"}) | {"Name": "further"}
    arn = version(
        service, ModelApprovalStatus="Approved", AdditionalInferenceSpecifications=[further]
    )
    make(service, "further", arn, InferenceSpecificationName="further")
    assert serve(service, "further")["environment"]["COLOUR"] == "further"
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match="no specification 'other'"):
        make(service, "other", arn, InferenceSpecificationName="other")
