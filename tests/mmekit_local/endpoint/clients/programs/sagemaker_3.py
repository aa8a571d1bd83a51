"""What a user of sagemaker 3 writes with its resource classes.

Arguments: the s3:// prefix of the models, the container's image.
"""

import json
import sys
from importlib.metadata import version

from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

prefix, image = sys.argv[1:]
name = "sagemaker-three"
session = Session()
bucket = session.default_bucket()
role = get_execution_role(session)

model = Model.create(
    model_name=name,
    primary_container=ContainerDefinition(image=image, mode="MultiModel", model_data_url=prefix),
    execution_role_arn=role,
)
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=name,
    instance_type="ml.m5.large",
    initial_instance_count=1,
    initial_variant_weight=1.0,
)
config = EndpointConfig.create(endpoint_config_name=name, production_variants=[variant])
Endpoint.create(endpoint_name=name, endpoint_config_name=name)
endpoint = Endpoint.get(name)
endpoint.wait_for_status("InService", poll=1, timeout=120)

body = json.dumps({"instances": [[1, 2], [3, 4]]})
answers = []
for target in ("times1.tar.gz", "times10.tar.gz"):
    answer = endpoint.invoke(
        body=body, content_type="application/json", accept="application/json", target_model=target
    )
    answers.append(json.loads(answer.body.read())["predictions"])

second = EndpointConfig.create(endpoint_config_name=f"{name}-2", production_variants=[variant])
endpoint.endpoint_config_name = f"{name}-2"
endpoint.update()
endpoint.wait_for_status("InService", poll=1, timeout=120)
endpoint.refresh()
updated_to = endpoint.endpoint_config_name
listed = [found.endpoint_name for found in Endpoint.get_all(name_contains=name)]

endpoint.delete()
endpoint.wait_for_delete(poll=1, timeout=60)
config.delete()
second.delete()
model.delete()
left = [found.endpoint_name for found in Endpoint.get_all(name_contains=name)]

json.dump(
    {
        "version": version("sagemaker-core"),
        "account": session.account_id(),
        "bucket": bucket,
        "role": role,
        "answers": answers,
        "variant": answer.invoked_production_variant,
        "updated_to": updated_to,
        "listed": listed,
        "left": left,
    },
    sys.stdout,
)
