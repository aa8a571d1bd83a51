"""Every model of mme.yaml answers the sample request of its archive through the endpoint.

On this machine: ``mme up -- sh -c 'mme deploy mme.yaml && pytest rehearsal'``. With MME_TARGET=aws
in the environment, ``pytest rehearsal`` asks the endpoint on AWS. MME_FILE=staging.yaml asks that
of another file. With `versions: true` it is the current version of each model that answers.
"""

import contextlib
import json

import pytest

import env
from mmekit.deploy import current_target, single_entries
from mmekit.errors import ArchiveError
from mmekit.testing import agree, read_sample

_TRIES = 10
ENTRIES = single_entries(env.deployment)  # an entry for each model, of patterns and folders, too


def test_the_file_names_models():
    assert ENTRIES, (
        f"{env.endpoint_name} gets its models by `mme promote`: ask with the file that names them"
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_a_model_gives_its_sample_answer(entry):
    sample = sample_of(entry)
    answer = ask(entry.key, sample)
    assert agree(json.load(answer["Body"]), sample.answer, tolerance=1e-6)


def sample_of(entry):
    """Return the archive's; that of the package folder where it is no text, such as an image."""
    try:
        return read_sample(entry.archive)
    except ArchiveError:
        if entry.package is None:
            raise
        return read_sample(entry.package)


def ask(name, sample):
    """Invoke a model, and again where its first load takes longer than a request may (60 s)."""
    client = env.client("sagemaker-runtime")
    request = {
        "EndpointName": env.endpoint_name,
        "TargetModel": current_target(env.settings(), env.endpoint_name, name).key,
        "ContentType": sample.content_type,
        "Body": sample.body,
    }
    for _ in range(_TRIES - 1):
        with contextlib.suppress(client.exceptions.ModelNotReadyException):
            return client.invoke_endpoint(**request)
    return client.invoke_endpoint(**request)
