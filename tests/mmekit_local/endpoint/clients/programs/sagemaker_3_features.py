"""What a user of sagemaker 3 writes to have requests queued, copied and answered in pieces.

Arguments: the s3:// address of a model, its bucket, the container's image, a role.
"""

import json
import sys
import time

import boto3
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import (
    AsyncInferenceConfig,
    AsyncInferenceOutputConfig,
    ContainerDefinition,
    ProductionVariant,
)

address, bucket, image, role = sys.argv[1:]
PATIENCE_S = 120

s3 = boto3.client("s3")
Model.create(
    model_name="one",
    primary_container=ContainerDefinition(image=image, model_data_url=address),
    execution_role_arn=role,
)


def variant(name):
    return ProductionVariant(
        variant_name=name,
        model_name="one",
        instance_type="ml.m5.large",
        initial_instance_count=1,
        initial_variant_weight=1.0,
    )


def serve(name, **config):
    EndpointConfig.create(endpoint_config_name=name, production_variants=[variant("One")], **config)
    Endpoint.create(endpoint_name=name, endpoint_config_name=name)
    endpoint = Endpoint.get(name)
    endpoint.wait_for_status("InService", poll=1, timeout=PATIENCE_S)
    return endpoint


def fetched(location):
    """Return an object, once it is there."""
    key = location.removeprefix(f"s3://{bucket}/")
    until = time.monotonic() + PATIENCE_S
    while not s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"]:
        if time.monotonic() > until:
            raise TimeoutError(location)
        time.sleep(0.1)
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


body = json.dumps({"instances": [[1, 2], [3, 4]]}).encode()
s3.put_object(Bucket=bucket, Key="payload.json", Body=body)
output = AsyncInferenceOutputConfig(s3_output_path=f"s3://{bucket}/answers")
queued = serve("queued", async_inference_config=AsyncInferenceConfig(output_config=output))
answer = queued.invoke_async(
    input_location=f"s3://{bucket}/payload.json",
    content_type="application/json",
    accept="application/json",
)
shadowed = serve("shadowed", shadow_production_variants=[variant("Shade")])
# sagemaker-core's own invoke_with_response_stream fails at the stream that boto3 gives it.
streamed = boto3.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
    EndpointName="shadowed", Body=body, ContentType="application/json"
)
pieces = [event["PayloadPart"]["Bytes"] for event in streamed["Body"]]
shadowed.refresh()
json.dump(
    {
        "queued": json.loads(fetched(answer.output_location))["predictions"],
        "streamed": json.loads(b"".join(pieces))["predictions"],
        "shadows": [one.variant_name for one in shadowed.shadow_production_variants],
    },
    sys.stdout,
)
for endpoint in (queued, shadowed):
    endpoint.delete()
