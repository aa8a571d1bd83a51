"""The role that the endpoint runs as: it may do what this endpoint needs, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_missing, owner, tags
from mmekit.deploy.step import Action, Report, Step, differences
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.deploy.account import Site

__all__ = ["plan_role", "plan_role_removal", "role_permissions"]

_POLICY = "mmekit"
_NAMESPACES = ("AWS/SageMaker", "/aws/sagemaker/Endpoints")
_KINDS = ("", "Permission")
_VERSION = "2012-10-17"
_REGISTRY = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[a-z.]+/(?P<name>[^:@]+)"
)


def plan_role(site: Site, *, serves_meanwhile: bool) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Plan what is done to the role before the endpoint's step, and what after it.

    One that the file names has to exist and is used as it is.

    Parameters
    ----------
    serves_meanwhile
        Whether old instances serve until new ones do: they go on loading models from where these
        were, so what they may do is taken away only afterwards.

    Raises
    ------
    DeployError
        The role that the file names does not exist; or one that is not the deployment's has the
        name that it would give.
    """
    if site.deployment.role is not None:
        return (_plan_given(site),), ()
    state, wanted = _state(site), _wanted(site)
    if state is None:
        return (Step(Action.CREATE, "role", site.role_name, perform=lambda _: _make(site)),), ()
    if state.pop("owner") != site.name:
        raise DeployError(
            "There is a role of this name that this deployment did not make.",
            where=site.role,
            remedy="Name it as `role` to use it as it is, or give the deployment another `name`.",
        )
    if state == wanted:
        return (Step(Action.KEEP, "role", site.role_name),), ()
    wide = wanted
    if serves_meanwhile:
        kept = _kept(state["permissions"], wanted["permissions"])
        wide = {**wanted, "permissions": {**wanted["permissions"], **kept}}
    return (
        _correction(site, state, wide, note=""),
        _correction(site, wide, wanted, note="less what only the old instances needed"),
    )


def plan_role_removal(site: Site) -> Step | None:
    """Plan to remove the role, if the deployment made it and nobody else uses it by then."""
    state = _state(site) if site.deployment.role is None else None
    if state is None:
        return None
    if state["owner"] != site.name:
        return Step(Action.KEEP, "role", site.role_name, note="not made by this deployment")
    return Step(
        Action.REMOVE,
        "role",
        site.role_name,
        note="if nobody else uses it",
        perform=lambda report: _remove(site, report),
    )


def role_permissions(site: Site) -> list[dict[str, Any]]:
    """Return the statements of the role's policy.

    Source: "CreateModel API: execution role permissions" and "Multi-model endpoint security" of
    SageMaker's developer guide, narrowed to this prefix, image and endpoint.
    """
    partition = site.account.partition
    bucket = f"arn:{partition}:s3:::{site.bucket}"
    logs = site.account.arn("logs", f"log-group:/aws/sagemaker/Endpoints/{site.name}")
    statements: list[dict[str, Any]] = [
        _allow("ReadModels", "s3:GetObject", f"{bucket}/{site.prefix}*"),
        {
            # Without it, S3 answers 403 instead of 404 for a key that is not there.
            **_allow("ListModels", "s3:ListBucket", bucket),
            "Condition": {"StringLike": {"s3:prefix": [f"{site.prefix}*"]}},
        },
        _allow(
            "WriteLogs",
            [
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
            ],
            # The group itself, and its streams: to IAM these are two resources.
            [logs, f"{logs}:*"],
        ),
        {
            # CloudWatch knows no resource for it: the condition narrows it instead.
            **_allow("WriteMetrics", "cloudwatch:PutMetricData", "*"),
            "Condition": {"StringEquals": {"cloudwatch:namespace": list(_NAMESPACES)}},
        },
    ]
    # Those that the file names, too.
    layers = [f"arn:{partition}:s3:::{place}*" for place in site.fetched_from]
    if layers:
        statements.append(
            _allow("ReadLayers", "s3:GetObject", layers if len(layers) > 1 else layers[0])
        )
    if site.fetches_layers:
        statements.append(
            {
                **_allow("ListLayers", "s3:ListBucket", bucket),
                "Condition": {"StringLike": {"s3:prefix": [f"{site.layers_prefix}*"]}},
            }
        )
    image = _REGISTRY.match(site.image)
    if image is not None:
        repository = (
            f"arn:{partition}:ecr:{image['region']}:{image['account']}:repository/{image['name']}"
        )
        pull = ["BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer"]
        statements += [
            _allow("PullImage", [f"ecr:{name}" for name in pull], repository),
            # A sign-in is to the whole registry: ECR knows no narrower resource.
            _allow("SignInToRegistry", "ecr:GetAuthorizationToken", "*"),
        ]
    if site.deployment.kms_key is not None:
        statements.append(_allow("DecryptModels", "kms:Decrypt", site.deployment.kms_key))
    if site.deployment.network is not None:
        verbs = [f"{do}NetworkInterface{what}" for do in ("Create", "Delete") for what in _KINDS]
        seen = ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
        actions = [f"ec2:{verb}" for verb in verbs] + [f"ec2:Describe{what}" for what in seen]
        # EC2's describing actions know no narrower resource.
        statements.append(_allow("AttachToNetwork", actions, "*"))
    return statements


def _allow(sid: str, action: str | list[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}


def _wanted(site: Site) -> dict[str, Any]:
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
        # Without it, SageMaker could be talked into using the role for another account.
        "Condition": {"StringEquals": {"aws:SourceAccount": site.account.number}},
    }
    return {
        "trust": {"Version": _VERSION, "Statement": [trust]},
        "permissions": {one["Sid"]: one for one in role_permissions(site)},
    }


def _state(site: Site) -> dict[str, Any] | None:
    iam = site.account.client("iam")
    try:
        role = iam.get_role(RoleName=site.role_name)["Role"]
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    try:
        policy = iam.get_role_policy(RoleName=site.role_name, PolicyName=_POLICY)["PolicyDocument"]
    except ClientError as error:
        if not is_missing(error):
            raise
        policy = {"Statement": []}
    return {
        "owner": owner(role.get("Tags", [])),
        "trust": role["AssumeRolePolicyDocument"],
        "permissions": {one.get("Sid", "?"): one for one in policy["Statement"]},
    }


def _plan_given(site: Site) -> Step:
    account, name = site.role.split(":")[4], site.role.rpartition("/")[2]
    note = "named in the file: used as it is"
    if site.fetched_from:
        places = ", ".join(f"s3://{place}*" for place in site.fetched_from)
        note += f"; it has to allow s3:GetObject on {places}"
    if account != site.account.number:
        if site.account.is_real:
            raise DeployError(
                f"The role belongs to account {account}, the endpoint to {site.account.number}.",
                where=site.role,
                remedy="SageMaker takes roles of its own account: name one, or leave `role` out "
                "and deploy makes one.",
            )
        return Step(Action.KEEP, "role", name, note=f"{note}; another account's, not looked up")
    try:
        site.account.client("iam").get_role(RoleName=name)
    except ClientError as error:
        if not is_missing(error):
            raise
        raise DeployError(
            "The role does not exist.",
            where=site.role,
            remedy="Name one that does, or leave `role` out and deploy makes one.",
        ) from error
    return Step(Action.KEEP, "role", name, note=note)


def _kept(old: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the old statements that differ, under names that the wanted ones leave free."""
    kept = {}
    for sid, statement in old.items():
        if sid not in wanted:
            kept[sid] = statement
        elif statement != wanted[sid]:
            # The hash tells apart what several updates that failed have left.
            text = json.dumps(statement, sort_keys=True).encode()
            name = f"{sid}Before{hashlib.sha256(text).hexdigest()[:8]}"
            kept[name] = {**statement, "Sid": name}
    return kept


def _correction(
    site: Site, before: dict[str, Any], after: dict[str, Any], *, note: str
) -> tuple[Step, ...]:
    if before == after:
        return ()
    return (
        Step(
            Action.CHANGE,
            "role",
            site.role_name,
            differences(before, after),
            note=note,
            perform=lambda _: _correct(site, after),
        ),
    )


def _make(site: Site) -> None:
    iam, wanted = site.account.client("iam"), _wanted(site)
    iam.create_role(
        RoleName=site.role_name,
        AssumeRolePolicyDocument=json.dumps(wanted["trust"]),
        Description=f"What the SageMaker endpoint {site.name} may do",
        Tags=tags(site.deployment),
    )
    iam.get_waiter("role_exists").wait(RoleName=site.role_name)
    _correct(site, wanted)


def _correct(site: Site, wanted: dict[str, Any]) -> None:
    iam, state = site.account.client("iam"), _state(site) or {}
    if state.get("trust") != wanted["trust"]:
        iam.update_assume_role_policy(
            RoleName=site.role_name, PolicyDocument=json.dumps(wanted["trust"])
        )
    if state.get("permissions") != wanted["permissions"]:
        policy = {"Version": _VERSION, "Statement": list(wanted["permissions"].values())}
        iam.put_role_policy(
            RoleName=site.role_name, PolicyName=_POLICY, PolicyDocument=json.dumps(policy)
        )


def _remove(site: Site, report: Report) -> None:
    others = list(_other_users(site))
    if others:
        report(f"role {site.role_name}: kept, {', '.join(others)} uses it")
        return
    iam = site.account.client("iam")
    # IAM removes no role that still has a policy.
    if _POLICY in iam.list_role_policies(RoleName=site.role_name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=site.role_name, PolicyName=_POLICY)
    iam.delete_role(RoleName=site.role_name)


def _other_users(site: Site) -> Iterator[str]:
    """Name what else the role serves: models, and whatever gave it more permissions."""
    iam, sagemaker = site.account.client("iam"), site.account.client("sagemaker")
    name = site.role_name
    # IAM does not know who names a role: every model has to be asked.
    for page in sagemaker.get_paginator("list_models").paginate():
        for listed in page["Models"]:
            model = sagemaker.describe_model(ModelName=listed["ModelName"])
            if model.get("ExecutionRoleArn") == site.role:
                yield f"model {listed['ModelName']}"
    for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        yield f"policy {policy['PolicyName']}"
    for inline in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        if inline != _POLICY:
            yield f"policy {inline}"
    for profile in iam.list_instance_profiles_for_role(RoleName=name)["InstanceProfiles"]:
        yield f"instance profile {profile['InstanceProfileName']}"
