"""CloudFormation's operations, by their names."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.change_sets import ChangeSets
from mmekit_local.aws.cloudformation.errors import template_error
from mmekit_local.aws.cloudformation.questions import Questions
from mmekit_local.aws.cloudformation.sources import require_acknowledgement, template_of
from mmekit_local.aws.cloudformation.stack_operations import StackOperations
from mmekit_local.aws.cloudformation.table import given_parameters, is_true, tags_of
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.record import Stack
    from mmekit_local.aws.cloudformation.table import StackTable
    from mmekit_local.aws.moto.aws import Aws

__all__ = ["Operations"]


class Operations:
    """What CloudFormation does, but for the work on resources, which `begin` starts.

    Parameters
    ----------
    stacks
        The stacks.
    begin
        Starts a piece of work on a stack.
    keep
        Writes a stack down; AwsError when it cannot.
    aws
        Has the templates that TemplateURL names.
    """

    def __init__(
        self,
        stacks: StackTable,
        begin: Callable[[Stack, StackContext, Callable[[], None]], None],
        keep: Callable[[Stack], None],
        aws: Aws,
    ) -> None:
        self._stacks = stacks
        self._keep = keep
        self._aws = aws
        self._operations = StackOperations(stacks, begin, aws)
        self._one_at_a_time = threading.Lock()
        self._known: dict[str, Callable[[dict[str, Any], StackContext], dict[str, Any]]] = {
            **Questions(stacks, aws).known,
            **ChangeSets(stacks, self._operations, aws).known,
            "CreateStack": self._create_stack,
            "DeleteStack": self._delete_stack,
            "UpdateStack": self._update_stack,
            "UpdateTerminationProtection": self._protect,
        }

    def perform(
        self, operation: str, members: dict[str, Any], context: StackContext
    ) -> dict[str, Any]:
        """Do what a request asks for; work that takes time goes on afterwards.

        Raises
        ------
        AwsError
            It is refused.
        """
        known = self._known.get(operation)
        if known is None:
            what = f"CloudFormation's {operation or 'unnamed operation'} is not here."
            raise AwsError(400, "InvalidAction", what)
        with self._one_at_a_time:
            return known(members, context)

    def _create_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack = self._operations.new_stack(members, context)
        failure = members.get("OnFailure") or (
            "DO_NOTHING" if is_true(members.get("DisableRollback")) else "ROLLBACK"
        )
        stack.on_failure = failure
        template = template_of(members, context, self._aws)
        given = given_parameters(members, {})
        self._operations.create(stack, template, given, context)
        return {"StackId": stack.id}

    def _update_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack = self._stacks.find(members, context)
        template = template_of(members, context, self._aws, stack)
        given = given_parameters(members, stack.parameters)
        if stack.has(template.text, given):
            raise template_error("No updates are to be performed.")
        require_acknowledgement(template, members)
        self._operations.update(stack, template, given, context, tags_of(members))
        return {"StackId": stack.id}

    def _delete_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        try:
            stack = self._stacks.find(members, context)
        except AwsError:
            return {}  # as on AWS
        self._operations.delete(stack, context)
        # DeleteStack answers nothing; the caller waits a little for the work all the same.
        return {"StackId": stack.id}

    def _protect(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack = self._stacks.find(members, context)
        before = stack.protected
        stack.protected = is_true(members.get("EnableTerminationProtection"))
        try:
            self._keep(stack)
        except AwsError:
            stack.protected = before
            raise
        return {"StackId": stack.id}
