"""Which requests are about secrets, which must not lie on a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit_local.sagemaker.api import operations_of

if TYPE_CHECKING:
    from mmekit_local.sagemaker.api import ApiRequest

__all__ = ["concerns_secrets"]

_WITHHELD = (  # what operations on these make or take must not lie on a disk
    "AccessKey",
    "LoginProfile",
    "ChangePassword",
    "MFADevice",
    "ServerCertificate",
    "SigningCertificate",
    "ServiceSpecificCredential",
)


def concerns_secrets(request: ApiRequest) -> bool:
    """Say whether a request is about secrets of IAM's, which are not kept."""
    return any(word in one for one in operations_of(request) for word in _WITHHELD)
