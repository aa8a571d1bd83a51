"""AWS's images of scikit-learn and XGBoost, rehearsed on Multi Model Server.

MMEKIT_TEST_MMS=1 lets their environments be made in the user's cache.
"""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from botocore.exceptions import ClientError

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.environ.get("MMEKIT_TEST_MMS") != "1",
        reason="MMEKIT_TEST_MMS=1 does not ask for Multi Model Server",
    ),
]
SKLEARN = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
XGBOOST = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:3.0-5"
ROWS = np.arange(12.0).reshape(6, 2)
SCRIPT = b"""
import json
import os
import pickle

class Doubler:
    def predict(self, rows):
        return rows.sum(axis=1) * 2

def model_fn(model_dir):
    import sklearn
    assert sklearn.__version__ == "1.2.1", sklearn.__version__
    with open(os.path.join(model_dir, "factor.json")) as file:
        model = Doubler()
        model.factor = json.load(file)
    return model
"""


@pytest.fixture(scope="module")
def scripted(shared):
    """A multi-model endpoint of scikit-learn, whose script is in S3 as the SDK puts it there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("inference.py")
        member.size = len(SCRIPT)
        tar.addfile(member, io.BytesIO(SCRIPT))
    shared.put("double.tar.gz", **{"factor.json": b"2"})
    shared.client("s3").put_object(
        Bucket="models", Key="code/sourcedir.tar.gz", Body=buffer.getvalue()
    )
    # The container's way to the bucket is the service's own.
    variables = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "s3://models/code/sourcedir.tar.gz",
        "AWS_ENDPOINT_URL": shared.url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    made = shared.create_endpoint("scripted", SKLEARN, environment=variables)
    assert made["EndpointStatus"] == "InService", made
    return "scripted"


def test_a_script_of_scikit_learn_gets_the_defaults_of_the_image(shared, scripted):
    answer = shared.invoke(
        scripted, "double.tar.gz", json.dumps(ROWS.tolist()), ContentType="application/json"
    )
    assert json.loads(answer) == (ROWS.sum(axis=1) * 2).tolist()
    csv = shared.invoke(scripted, "double.tar.gz", "1,2", ContentType="text/csv", Accept="text/csv")
    assert csv.decode().split() == ["6.0"]


def test_a_model_without_a_script_is_refused_as_the_image_does(shared):
    shared.put("bare.tar.gz", **{"model.pkl": pickle.dumps({})})
    assert shared.create_endpoint("bare", SKLEARN)["EndpointStatus"] == "InService"
    with pytest.raises(ClientError, match="provide a model_fn"):
        shared.invoke("bare", "bare.tar.gz", "1,2", ContentType="text/csv")


def test_code_in_the_archive_serves_a_single_model(shared):
    shared.put("coded.tar.gz", **{"factor.json": b"2", "code/inference.py": SCRIPT})
    made = shared.create_endpoint("coded", SKLEARN, single="coded.tar.gz")
    assert made["EndpointStatus"] == "InService", made
    answer = shared.invoke("coded", None, "1,2\n3,4", ContentType="text/csv")
    assert json.loads(answer) == [6.0, 14.0]


def test_xgboost_without_a_script_is_the_algorithm(shared, tmp_path):
    xgboost = pytest.importorskip("xgboost")
    booster = xgboost.train(
        {"max_depth": 2, "objective": "reg:squarederror"},
        xgboost.DMatrix(ROWS, label=ROWS.sum(axis=1)),
        num_boost_round=3,
    )
    file = tmp_path / "xgboost-model.json"
    booster.save_model(file)
    shared.put("trees.tar.gz", **{"xgboost-model.json": file.read_bytes()})
    made = shared.create_endpoint("trees", XGBOOST)
    assert made["EndpointStatus"] == "InService", made
    csv = "\n".join(",".join(map(str, row)) for row in ROWS.tolist())
    wanted = booster.predict(xgboost.DMatrix(ROWS))

    def ask(body, kind, accept):
        return shared.invoke("trees", "trees.tar.gz", body, ContentType=kind, Accept=accept)

    as_json = json.loads(ask(csv, "text/csv", "application/json"))
    assert as_json == pytest.approx(wanted.tolist(), rel=1e-5)
    as_csv = [float(one) for one in ask(csv, "text/csv", "text/csv").decode().split(",")]
    assert as_csv == pytest.approx(wanted.tolist(), rel=1e-5)
    libsvm = "\n".join(f"0 1:{first} 2:{second}" for first, second in ROWS.tolist())
    assert ask(libsvm, "text/libsvm", "text/csv") == ask(csv, "text/csv", "text/csv")
    with pytest.raises(ClientError, match="not supported"):
        ask("{}", "application/json", "text/csv")
