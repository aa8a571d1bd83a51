"""Change sets: a template and parameters, given first and executed later."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.descriptions import described_change_set
from mmekit_local.aws.cloudformation.parameters import given_parameters, shown_parameters
from mmekit_local.aws.cloudformation.provisioning import changes
from mmekit_local.aws.cloudformation.stack import ChangeSet, template_error
from mmekit_local.aws.cloudformation.stack_table import is_true, tags_of
from mmekit_local.aws.cloudformation.template import Template, require_acknowledgement, template_of
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Stack
    from mmekit_local.aws.cloudformation.stack_operations import StackOperations
    from mmekit_local.aws.cloudformation.stack_table import StackTable
    from mmekit_local.aws.moto.aws import Aws

__all__ = ["ChangeSets"]


class ChangeSets:
    """Change sets, which a state folder does not keep: nothing has been changed by them.

    Parameters
    ----------
    stacks
        The stacks.
    work
        Begins what a change set wants.
    aws
        Has the templates that TemplateURL names.

    Attributes
    ----------
    known
        The operations, by name.
    """

    def __init__(self, stacks: StackTable, work: StackOperations, aws: Aws) -> None:
        self._stacks = stacks
        self._operations = work
        self._aws = aws
        self._change_sets: dict[str, tuple[Stack, ChangeSet]] = {}
        self.known: dict[str, Callable[[dict[str, Any], StackContext], dict[str, Any]]] = {
            "CreateChangeSet": self._create_change_set,
            "DeleteChangeSet": self._delete_change_set,
            "DescribeChangeSet": self._describe_change_set,
            "ExecuteChangeSet": self._execute_change_set,
            "ListChangeSets": self._list_change_sets,
        }

    def _create_change_set(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        kind = members.get("ChangeSetType", "UPDATE")
        if kind == "CREATE":
            stack = self._operations.new_stack(members, context, reviewing=True)
            template = template_of(members, context, self._aws)
        elif kind == "UPDATE":
            stack = self._stacks.find(members, context)
            template = template_of(members, context, self._aws, stack)
            require_acknowledgement(template, members)
        else:
            raise template_error(f"ChangeSetType {kind} is not supported here.")
        given = given_parameters(members, stack.parameters)
        values = self._operations.values(stack, template, given, context)
        if stack.id not in self._stacks:
            stack.set_status("REVIEW_IN_PROGRESS", "User Initiated")
            self._stacks.keep(stack)
        identity = f"changeSet/{members['ChangeSetName']}/{uuid.uuid4()}"
        change_set = ChangeSet(
            id=f"arn:aws:cloudformation:{context.region}:{context.account}:{identity}",
            name=str(members["ChangeSetName"]),
            kind=kind,
            template=template.text,
            parameters=given,
            shown=shown_parameters(template, values),
            tags=tags_of(members),
            description=str(members.get("Description", "")),
            changes=changes(stack, template),
        )
        if kind == "UPDATE" and stack.has(template.text, given):
            change_set.changes = ()
            change_set.reason = (
                "The submitted information didn't contain changes. Submit different information "
                "to create a change set."
            )
        self._change_sets[change_set.id] = stack, change_set
        return {"Id": change_set.id, "StackId": stack.id}

    def _execute_change_set(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack, change_set = self._change_set(members, context)
        if change_set.reason or change_set.executed:
            raise AwsError(
                400,
                "InvalidChangeSetStatus",
                f"ChangeSet [{change_set.id}] cannot be executed in its current status",
            )
        template = Template.parse(change_set.template)
        if change_set.kind == "CREATE" and stack.status == "REVIEW_IN_PROGRESS":
            if is_true(members.get("DisableRollback")):
                stack.on_failure = "DO_NOTHING"
            self._operations.create(
                stack, template, change_set.parameters, context, change_set.tags
            )
        else:
            self._operations.update(
                stack, template, change_set.parameters, context, change_set.tags
            )
        change_set.executed = True
        # As for DeleteStack: the caller waits a little.
        return {"StackId": stack.id}

    def _describe_change_set(
        self, members: dict[str, Any], context: StackContext
    ) -> dict[str, Any]:
        return described_change_set(*self._change_set(members, context))

    def _delete_change_set(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        _, change_set = self._change_set(members, context)
        del self._change_sets[change_set.id]
        return {}

    def _list_change_sets(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        wanted = self._stacks.find(members, context)
        found = [pair for pair in self._change_sets.values() if pair[0] is wanted]
        return {"Summaries": [described_change_set(*pair) for pair in found]}

    def _change_set(
        self, members: dict[str, Any], context: StackContext
    ) -> tuple[Stack, ChangeSet]:
        name = str(members.get("ChangeSetName", ""))
        if name in self._change_sets:
            return self._change_sets[name]
        stack = self._stacks.find(members, context)
        for other, change_set in reversed(self._change_sets.values()):
            if other is stack and change_set.name == name:
                return stack, change_set
        raise AwsError(404, "ChangeSetNotFound", f"ChangeSet [{name}] does not exist")
