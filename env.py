"""The settings that all notebooks share: ``import env``, then ``env.bucket``, ``env.client("s3")``.

To change one, set its variable MME_… or write it into a file .env beside this one (see
.env.example); `mmekit.settings` says what each may be. The notebooks are the same for the local
endpoint and for AWS: MME_TARGET alone decides. Where it is the local one, it is what AWS means to
everything else in the notebook, too: a client that boto3 makes by itself, SageMaker's SDK.
"""

from pathlib import Path

from mmekit.aws_environment import enter
from mmekit.extras import explain_in_notebook
from mmekit.notebook import show_texts_left
from mmekit.settings import Settings

explain_in_notebook()  # what to install, where a library is missing
settings = Settings()
if settings.target == "local":
    enter(settings.local_url, settings.region)

show_texts_left()

target = settings.target
region = settings.region
bucket = settings.bucket
prefix = settings.prefix
model_data_url = settings.model_data_url
endpoint_name = settings.endpoint_name
role = settings.role
instance_type = settings.instance_type
image_uri = settings.image_uri
client = settings.client
sentence_model = settings.sentence_model

ROOT = Path(__file__).resolve().parent
MODEL_PACKAGES = ROOT / "model_packages"  # what you write: model.py and serving.properties
BUILD = ROOT / "build"
ARTIFACTS = BUILD / "artifacts"  # what training writes: a folder a model
ARCHIVES = BUILD / "archives"  # what packing makes of the two: name.tar.gz
