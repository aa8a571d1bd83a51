"""Who calls: a container as its model's role, and everybody whose credentials nobody has made."""

from __future__ import annotations

import json
from typing import Any

from moto.backends import get_backend
from moto.iam.exceptions import NotFoundException
from moto.iam.models import IAMBackend
from moto.sts.models import STSBackend
from moto.utilities.utils import get_partition

from mmekit.aws_environment import LOCAL_ROLE

__all__ = ["correct_identities", "role_variables"]

_SESSION = "SageMaker"  # what SageMaker calls its sessions
_ROLE_ID = "AROAREHEARSAL00000000"
_UNKNOWN = ":user/moto"
_LONGEST_S = 12 * 3600  # nobody looks at it
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def role_variables(account: str, region: str, role: str, url: str) -> tuple[tuple[str, str], ...]:
    """Return the variables by which a container reaches AWS, as the role of its model.

    Parameters
    ----------
    account, region
        Of its endpoint.
    role
        The ARN of the model's role, which need not exist; empty for the one that stands for all.
    url
        Where AWS is.

    Notes
    -----
    SageMaker sets AWS_REGION alone. boto3 reads AWS_DEFAULT_REGION, and with an address of its own
    it asks for a region even where it needs none on AWS (STS). There the credentials come from an
    address, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, which is one of the container's network; here
    they are variables.
    """
    partition = get_partition(region)
    if ":role/" not in role:  # moto's word for none is `arn:test`
        role = f"arn:{partition}:iam::{account}:role/{LOCAL_ROLE}"
    assumed = get_backend("sts")[account][partition].assume_role(
        region_name=region,
        role_session_name=_SESSION,
        role_arn=role,
        policy="",
        duration=_LONGEST_S,
        external_id="",
    )
    return (
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", region),
        ("AWS_DEFAULT_REGION", region),
        ("AWS_ACCESS_KEY_ID", str(assumed.access_key_id)),
        ("AWS_SECRET_ACCESS_KEY", str(assumed.secret_access_key)),
        ("AWS_SESSION_TOKEN", str(assumed.session_token)),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    )


def correct_identities() -> None:
    """Let who is unknown be a role that is assumed, as in a notebook; a second time does no harm.

    SageMaker's SDKs refuse to make a role of the user that moto says instead, and ask IAM for the
    path of the role.
    """
    if not hasattr(STSBackend, "_mmekit_identity"):
        setattr(STSBackend, "_mmekit_identity", STSBackend.get_caller_identity)  # noqa: B010
        setattr(STSBackend, "get_caller_identity", _caller_identity)  # noqa: B010
        setattr(IAMBackend, "_mmekit_role", IAMBackend.get_role)  # noqa: B010
        setattr(IAMBackend, "get_role", _role)  # noqa: B010


def _caller_identity(backend: Any, access_key_id: str, region: str) -> tuple[str, str, str]:
    user, arn, account = backend._mmekit_identity(access_key_id, region)  # noqa: SLF001 - set above
    # Keys that IAM has made belong to whom they were made for.
    if not arn.endswith(_UNKNOWN):
        return user, arn, account
    arn = f"arn:{get_partition(region)}:sts::{account}:assumed-role/{LOCAL_ROLE}/{_SESSION}"
    return f"{_ROLE_ID}:{_SESSION}", arn, account


def _role(backend: Any, role_name: str) -> Any:
    """Return a role; the one that stands for all is made when somebody asks for it."""
    try:
        return backend._mmekit_role(role_name)  # noqa: SLF001 - set above
    except NotFoundException:
        if role_name != LOCAL_ROLE:
            raise
    return backend.create_role(
        role_name=LOCAL_ROLE,
        assume_role_policy_document=json.dumps(_TRUST),
        path="/",
        permissions_boundary=None,
        description="Whoever comes with credentials that nobody has made",
        tags=[],
        max_session_duration=None,
    )
