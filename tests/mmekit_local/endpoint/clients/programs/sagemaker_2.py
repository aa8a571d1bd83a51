"""What a user of sagemaker 2 writes; nothing in it says where SageMaker is.

Arguments: a local archive, the s3:// address of another one, the container's image.
"""

import json
import sys

import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer

archive, address, image = sys.argv[1:]
session = sagemaker.Session()
bucket = session.default_bucket()
role = sagemaker.get_execution_role(session)

models = MultiDataModel(
    name="sagemaker-two",
    model_data_prefix=f"s3://{bucket}/two/",
    image_uri=image,
    role=role,
    sagemaker_session=session,
    predictor_cls=Predictor,
)
added = [
    models.add_model(archive, "local/times1.tar.gz"),
    models.add_model(address, "times10.tar.gz"),
]
predictor = models.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    endpoint_name="sagemaker-two",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    wait=False,  # else it sleeps for 30 s before it asks for the first time
)
status = session.wait_for_endpoint("sagemaker-two", poll=1)["EndpointStatus"]
rows = {"instances": [[1, 2], [3, 4]]}
answers = [
    predictor.predict(rows, target_model=target)["predictions"]
    for target in ("local/times1.tar.gz", "times10.tar.gz")
]

models.add_model(archive, "later.tar.gz")  # no update of the endpoint
again = Predictor("sagemaker-two", session, JSONSerializer(), JSONDeserializer())
answers.append(again.predict(rows, target_model="later.tar.gz")["predictions"])
try:
    again.predict(rows, target_model="absent.tar.gz")
    refused = None
except session.sagemaker_runtime_client.exceptions.ValidationError as error:
    refused = error.response["Error"]["Message"]

listed = sorted(models.list_models())
predictor.delete_endpoint(delete_endpoint_config=True)
models.delete_model()
left = session.sagemaker_client.list_endpoints(NameContains="sagemaker-two")["Endpoints"]

json.dump(
    {
        "version": sagemaker.__version__,
        "account": session.account_id(),
        "bucket": bucket,
        "role": role,
        "added": added,
        "answers": answers,
        "refused": refused,
        "listed": listed,
        "status": status,
        "left": len(left),
    },
    sys.stdout,
)
