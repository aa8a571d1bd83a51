"""What CloudFormation refuses, and what keeps a resource from being made."""

from __future__ import annotations

from mmekit_local.sagemaker.errors import AwsError

__all__ = ["ResourceError", "template_error"]


class ResourceError(Exception):
    """A resource cannot be made, changed or deleted; the message is its status reason."""


def template_error(message: str) -> AwsError:
    """Return CloudFormation's error for a template, parameters or a stack that do not do."""
    return AwsError(400, "ValidationError", message)
