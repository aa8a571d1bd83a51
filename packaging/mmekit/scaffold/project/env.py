"""What notebooks and tests share: where things lie, the endpoint's name, clients of AWS.

The name is that of mme.yaml. AWS is the rehearsal on this machine (`mme up`), and the real one
where the variable MME_TARGET is aws: the code stays as it is.
"""

from pathlib import Path
from typing import Any

import yaml

from mmekit.settings import Settings

ROOT = Path(__file__).resolve().parent
MODEL_PACKAGES = ROOT / "model_packages"  # what you write: model.py and serving.properties
ARTIFACTS = ROOT / "build" / "artifacts"  # what training writes: a folder a model
ARCHIVES = ROOT / "build" / "archives"  # what packing makes of the two: name.tar.gz

deployment: dict[str, Any] = yaml.safe_load((ROOT / "mme.yaml").read_text(encoding="utf-8"))
endpoint_name: str = deployment["name"]
packages: list[dict[str, Any]] = deployment["packages"]


def client(service: str) -> Any:
    """Return the boto3 client of a service, such as "sagemaker-runtime" or "s3"."""
    return Settings().client(service)
