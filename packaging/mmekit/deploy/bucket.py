"""The bucket: blocks public access, encrypts, refuses plain HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import code_of, is_denied, is_missing, owner, tags
from mmekit.deploy.step import Action, Report, Step, differences
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit.deploy.account import Site

__all__ = ["bucket_owner", "plan_bucket", "plan_bucket_removal"]

_BLOCKED = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
_REFUSES_PLAIN_HTTP = "RefusePlainHttp"
_FORGETS_UPLOADS = "ForgetUploadsThatWereInterrupted"
_US_EAST_1 = "us-east-1"  # the one region that CreateBucket does not want to be named


def plan_bucket(site: Site) -> Step:
    """Plan the bucket; one that the deployment did not make is used as it is.

    Raises
    ------
    DeployError
        The name belongs to somebody else, or to a bucket of another region.
    """
    state = _state(site)
    if state is None:
        return Step(Action.CREATE, "bucket", site.bucket, perform=lambda _: _make(site))
    if state.pop("owner") != site.name:
        known = {field: value for field, value in _wanted(site).items() if field in state}
        found = differences(state, known)
        weak = ", ".join(difference.field for difference in found)
        note = "not made by this deployment: used as it is"
        note += f"; not as mme would make it: {weak}" if weak else ""
        return Step(Action.KEEP, "bucket", site.bucket, note=note)
    found = differences(state, _wanted(site))
    if not found:
        return Step(Action.KEEP, "bucket", site.bucket)
    return Step(Action.CHANGE, "bucket", site.bucket, found, perform=lambda _: _protect(site))


def plan_bucket_removal(site: Site) -> Step | None:
    """Plan to remove the bucket, if the deployment made it and nothing else is in it by then."""
    state = _state(site)
    if state is None:
        return None
    if state["owner"] != site.name:
        return Step(Action.KEEP, "bucket", site.bucket, note="not made by this deployment")
    return Step(
        Action.REMOVE,
        "bucket",
        site.bucket,
        note="if nothing of others' is in it",
        perform=lambda report: _remove(site, report),
    )


def _wanted(site: Site) -> dict[str, Any]:
    key = site.deployment.kms_key
    return {
        "public access": "blocked",
        "encryption": key or "AES256",
        "plain HTTP": "refused",
        "interrupted uploads": "forgotten after a day",
    }


def _state(site: Site) -> dict[str, Any] | None:
    s3, bucket = site.account.client("s3"), site.bucket
    try:
        found = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if is_missing(error):
            return None
        if is_denied(error):
            raise DeployError(
                "The bucket belongs to another account, or you have no permission to use it.",
                where=bucket,
                remedy="Choose another name as `bucket`; bucket names are global.",
            ) from error
        # To a HEAD S3 says no more than the status.
        if code_of(error) in ("301", "PermanentRedirect"):
            raise _elsewhere(site, "another region") from error
        raise
    region = found.get("BucketRegion", site.account.region)
    if region != site.account.region:
        raise _elsewhere(site, region)
    state: dict[str, Any] = {"owner": bucket_owner(site)}
    for field, look in _LOOKS.items():
        try:
            state[field] = look(site)
        except ClientError as error:
            # Others' buckets are used as they are: what may not be looked up stays unsaid.
            if state["owner"] == site.name or not is_denied(error):
                raise
    return state


def bucket_owner(site: Site) -> str | None:
    """Return the deployment that made the bucket; None for nobody's, and for none."""
    s3 = site.account.client("s3")
    try:
        return owner(_asked(lambda: s3.get_bucket_tagging(Bucket=site.bucket)["TagSet"], []))
    except ClientError as error:
        if site.deployment.bucket is None or not is_denied(error):
            raise
        return None


def _elsewhere(site: Site, region: str) -> DeployError:
    return DeployError(
        f"The bucket is in {region}, the deployment in {site.account.region}.",
        where=site.bucket,
        remedy="SageMaker reads models from its own region: choose another name as `bucket`.",
    )


def _asked(ask: Callable[[], Any], otherwise: Any) -> Any:
    try:
        # What nobody has set is an error to S3: NoSuchTagSet, NoSuchBucketPolicy and so on.
        return ask()
    except ClientError as error:
        if is_missing(error):
            return otherwise
        raise


def _public_access(site: Site) -> str:
    s3 = site.account.client("s3")
    blocked = _asked(
        lambda: s3.get_public_access_block(Bucket=site.bucket)["PublicAccessBlockConfiguration"], {}
    )
    return "blocked" if blocked == _BLOCKED else "possible"


def _encryption(site: Site) -> str | None:
    s3 = site.account.client("s3")
    rules = _asked(
        lambda: s3.get_bucket_encryption(Bucket=site.bucket)["ServerSideEncryptionConfiguration"],
        {},
    ).get("Rules", [])
    by_default = rules[0].get("ApplyServerSideEncryptionByDefault", {}) if rules else {}
    return by_default.get("KMSMasterKeyID") or by_default.get("SSEAlgorithm")


def _plain_http(site: Site) -> str:
    return "refused" if _refusal(site) in _statements(site) else "allowed"


def _interrupted_uploads(site: Site) -> str:
    forgetting = any(rule.get("ID") == _FORGETS_UPLOADS for rule in _lifecycle(site))
    return "forgotten after a day" if forgetting else "kept"


_LOOKS: dict[str, Callable[[Site], str | None]] = {
    "public access": _public_access,
    "encryption": _encryption,
    "plain HTTP": _plain_http,
    "interrupted uploads": _interrupted_uploads,
}


def _statements(site: Site) -> list[dict[str, Any]]:
    s3 = site.account.client("s3")
    text = _asked(lambda: s3.get_bucket_policy(Bucket=site.bucket)["Policy"], None)
    listed = [] if text is None else json.loads(text)["Statement"]
    return listed if isinstance(listed, list) else [listed]


def _lifecycle(site: Site) -> list[dict[str, Any]]:
    s3 = site.account.client("s3")
    rules: list[dict[str, Any]] = _asked(
        lambda: s3.get_bucket_lifecycle_configuration(Bucket=site.bucket)["Rules"], []
    )
    return rules


def _refusal(site: Site) -> dict[str, Any]:
    arn = f"arn:{site.account.partition}:s3:::{site.bucket}"
    return {
        "Sid": _REFUSES_PLAIN_HTTP,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def _make(site: Site) -> None:
    # The tags come with the bucket: a bucket without them could not be told from others'.
    configuration: dict[str, Any] = {"Tags": tags(site.deployment)}
    if site.account.region != _US_EAST_1:
        configuration["LocationConstraint"] = site.account.region
    try:
        site.account.client("s3").create_bucket(
            Bucket=site.bucket, CreateBucketConfiguration=configuration
        )
    except ClientError as error:
        if code_of(error) != "BucketAlreadyExists":
            raise
        raise DeployError(
            "The bucket belongs to another account.",
            where=site.bucket,
            remedy="Choose another name as `bucket`; bucket names are global.",
        ) from error
    _protect(site)


def _protect(site: Site) -> None:
    """Set what differs."""
    wanted, state = _wanted(site), _state(site) or {}
    for field, protect in _PROTECTIONS.items():
        if state.get(field) != wanted[field]:
            protect(site)


def _block_public_access(site: Site) -> None:
    site.account.client("s3").put_public_access_block(
        Bucket=site.bucket, PublicAccessBlockConfiguration=_BLOCKED
    )


def _encrypt(site: Site) -> None:
    key = site.deployment.kms_key
    by_default = {"SSEAlgorithm": "AES256"}
    if key is not None:
        by_default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    # With a bucket key, KMS is not asked, and not paid, for every single object.
    rule = {"ApplyServerSideEncryptionByDefault": by_default, "BucketKeyEnabled": key is not None}
    site.account.client("s3").put_bucket_encryption(
        Bucket=site.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]}
    )


def _refuse_plain_http(site: Site) -> None:
    # A bucket has one policy, which is put as a whole: what others added goes along.
    others = [one for one in _statements(site) if one.get("Sid") != _REFUSES_PLAIN_HTTP]
    policy = {"Version": "2012-10-17", "Statement": [*others, _refusal(site)]}
    site.account.client("s3").put_bucket_policy(Bucket=site.bucket, Policy=json.dumps(policy))


def _forget_uploads(site: Site) -> None:
    forget = {
        "ID": _FORGETS_UPLOADS,
        "Status": "Enabled",
        # S3 wants a filter, even of a rule for everything.
        "Filter": {"Prefix": ""},
        # Parts of an upload that never ended are paid for, and no list of objects shows them.
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    rules = [one for one in _lifecycle(site) if one.get("ID") != _FORGETS_UPLOADS]
    site.account.client("s3").put_bucket_lifecycle_configuration(
        Bucket=site.bucket, LifecycleConfiguration={"Rules": [*rules, forget]}
    )


_PROTECTIONS: dict[str, Callable[[Site], None]] = {
    "public access": _block_public_access,
    "encryption": _encrypt,
    "plain HTTP": _refuse_plain_http,
    "interrupted uploads": _forget_uploads,
}


def _remove(site: Site, report: Report) -> None:
    s3 = site.account.client("s3")
    if s3.list_objects_v2(Bucket=site.bucket, MaxKeys=1).get("KeyCount"):
        report(f"bucket {site.bucket}: kept, there are other objects in it")
        return
    try:
        s3.delete_bucket(Bucket=site.bucket)
    except ClientError as error:
        if code_of(error) == "BucketNotEmpty":
            report(f"bucket {site.bucket}: kept, it holds old versions of objects")
        elif not is_missing(error):
            raise
