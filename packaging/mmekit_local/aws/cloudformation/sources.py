"""The template that a request brings along, names or leaves as it was."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mmekit_local.aws.cloudformation.described import needed_capabilities
from mmekit_local.aws.cloudformation.errors import template_error
from mmekit_local.aws.cloudformation.template import Template
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.record import Stack
    from mmekit_local.aws.moto.aws import Aws

__all__ = ["require_acknowledgement", "template_of"]


def template_of(
    members: dict[str, Any], context: StackContext, aws: Aws, stack: Stack | None = None
) -> Template:
    """Return the template that a request means.

    Parameters
    ----------
    members
        Of the request: TemplateBody, TemplateURL or UsePreviousTemplate.
    context
        Whose buckets have the URL's object.
    aws
        Has the buckets.
    stack
        What has the previous template.

    Raises
    ------
    AwsError
        There is none, or it is no template.
    """
    if members.get("TemplateBody"):
        return Template.parse(str(members["TemplateBody"]))
    if members.get("TemplateURL"):
        return Template.parse(_fetched(str(members["TemplateURL"]), context, aws))
    if stack is not None and stack.template:
        return Template.parse(stack.template)
    raise template_error("Either Template URL or Template Body must be specified.")


def require_acknowledgement(template: Template, members: dict[str, Any]) -> None:
    """Make sure that a request says that roles may be made, where the template makes some.

    Raises
    ------
    AwsError
        It does not.
    """
    needed = needed_capabilities(template)
    given = set(members.get("Capabilities") or ())
    if "CAPABILITY_NAMED_IAM" in given:
        given.add("CAPABILITY_IAM")
    if set(needed) - given:
        raise AwsError(
            400,
            "InsufficientCapabilitiesException",
            f"Requires capabilities : [{', '.join(needed)}]",
        )


def _fetched(url: str, context: StackContext, aws: Aws) -> str:
    """Return a template in S3, whose URL has the bucket in its path or in its host."""
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    virtual = re.fullmatch(r"(.+)\.s3[.-].*amazonaws\.com", parts.hostname or "")
    bucket, _, key = (virtual[1], "", path) if virtual else path.partition("/")
    content = aws.read_object(context.account, context.region, bucket, key)
    if content is None:
        raise template_error(f"S3 error: The specified key does not exist: {url}")
    return content.decode("utf-8", "replace")
