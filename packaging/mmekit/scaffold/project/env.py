"""What notebooks and tests share: where things lie, the endpoint's name, clients of AWS.

The name is that of mme.yaml, or of another deployment file that the variable MME_FILE names, such
as staging.yaml. AWS is the rehearsal on this machine (`mme up`), and the real one where the
variable MME_TARGET is aws: the code stays as it is.
"""

import os
from pathlib import Path
from typing import Any

from mmekit.deploy import read_deployment
from mmekit.settings import Settings

ROOT = Path(__file__).resolve().parent
MODEL_PACKAGES = ROOT / "model_packages"  # what you write: model.py and serving.properties
ARTIFACTS = ROOT / "build" / "artifacts"  # what training writes: a folder a model
ARCHIVES = ROOT / "build" / "archives"  # what packing makes of the two: name.tar.gz

deployment = read_deployment(ROOT / os.environ.get("MME_FILE", "mme.yaml"))
endpoint_name: str = deployment.name


def settings() -> Settings:
    """Return what says where AWS is: region and profile are those of the deployment file."""
    region = {} if deployment.region is None else {"region": deployment.region}
    return Settings(profile=deployment.profile, **region)


def client(service: str) -> Any:
    """Return the boto3 client of a service, such as "sagemaker-runtime" or "s3"."""
    return settings().client(service)
