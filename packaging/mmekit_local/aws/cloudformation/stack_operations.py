"""The beginning of work on stacks: what is refused, and what a deployment is given."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from moto.backends import get_backend

from mmekit_local.aws.cloudformation.intrinsic_functions import Evaluator
from mmekit_local.aws.cloudformation.parameters import (
    given_parameters,
    resolved_parameters,
    shown_parameters,
)
from mmekit_local.aws.cloudformation.provisioning import Provisioning, assume_created
from mmekit_local.aws.cloudformation.stack import Stack, template_error
from mmekit_local.aws.cloudformation.stack_table import GONE, is_true, tags_of
from mmekit_local.aws.cloudformation.template import Template, require_acknowledgement, template_of
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack_table import StackTable
    from mmekit_local.aws.moto.aws import Aws

__all__ = ["StackOperations"]

_NAME = re.compile(r"[A-Za-z][-A-Za-z0-9]{0,127}")
_UPDATABLE = re.compile(r"(CREATE|UPDATE|UPDATE_ROLLBACK)_COMPLETE|UPDATE_FAILED")
_EMPTY = Template("", "", {}, {}, {}, {}, {}, {})


class StackOperations:
    """Begins to create, update and delete stacks.

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

    Attributes
    ----------
    known
        The operations of the API, by name.
    """

    def __init__(
        self,
        stacks: StackTable,
        begin: Callable[[Stack, StackContext, Callable[[], None]], None],
        keep: Callable[[Stack], None],
        aws: Aws,
    ) -> None:
        self._stacks = stacks
        self._begin = begin
        self._keep = keep
        self._aws = aws
        self.known: dict[str, Callable[[dict[str, Any], StackContext], dict[str, Any]]] = {
            "CreateStack": self._create_stack,
            "DeleteStack": self._delete_stack,
            "UpdateStack": self._update_stack,
            "UpdateTerminationProtection": self._protect,
        }

    def new_stack(
        self, members: dict[str, Any], context: StackContext, *, reviewing: bool = False
    ) -> Stack:
        """Return a stack that there was not before, as a request describes it.

        Parameters
        ----------
        members
            Of the request.
        context
            Where.
        reviewing
            Whether it may be one that has change sets only.

        Raises
        ------
        AwsError
            Its name is none, or is taken; or its roles are not acknowledged.
        """
        name = str(members.get("StackName", ""))
        if not _NAME.fullmatch(name):
            raise template_error(
                f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy "
                "constraint: Member must satisfy regular expression pattern: "
                "[a-zA-Z][-a-zA-Z0-9]*"
            )
        require_acknowledgement(template_of(members, context, self._aws), members)
        for stack in self._stacks.here(context):
            if stack.name == name and stack.status != GONE:
                if reviewing and stack.status == "REVIEW_IN_PROGRESS":
                    return stack
                raise AwsError(400, "AlreadyExistsException", f"Stack [{name}] already exists")
        return Stack(
            id=f"arn:aws:cloudformation:{context.region}:{context.account}:stack/{name}/{uuid.uuid4()}",
            name=name,
            account=context.account,
            region=context.region,
            tags=tags_of(members),
            capabilities=list(members.get("Capabilities") or ()),
            protected=is_true(members.get("EnableTerminationProtection")),
        )

    def create(
        self,
        stack: Stack,
        template: Template,
        given: dict[str, str],
        context: StackContext,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Begin to create a stack; tags that are given are its tags.

        Raises
        ------
        AwsError
            A parameter cannot be, or there is no room to write the stack down.
        """
        values = self.values(stack, template, given, context)

        def work() -> None:
            provisioning.create()
            if stack.status == "ROLLBACK_COMPLETE" and stack.on_failure == "DELETE":
                stack.set_status(GONE)
                stack.deleted = time.time()

        with _restored_if_refused(stack):
            _describe(stack, template, given, values)
            stack.tags = tags or stack.tags
            stack.set_status("CREATE_IN_PROGRESS", "User Initiated")
            provisioning = self._deployment(stack, template, values, context)
            self._begin(stack, context, work)
        # Only now: a stack that could not be written down is none.
        self._stacks.keep(stack)

    def update(
        self,
        stack: Stack,
        template: Template,
        given: dict[str, str],
        context: StackContext,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Begin to update a stack; tags that are given are its tags.

        Raises
        ------
        AwsError
            It cannot be updated now, or a parameter cannot be, or there is no room to write the
            stack down.
        """
        if not _UPDATABLE.fullmatch(stack.status):
            raise template_error(
                f"Stack:{stack.id} is in {stack.status} state and can not be updated."
            )
        before = stack.template, stack.parameters, stack.shown, stack.description
        values = self.values(stack, template, given, context)

        def work() -> None:
            if not provisioning.update():
                stack.template, stack.parameters, stack.shown, stack.description = before

        with _restored_if_refused(stack):
            _describe(stack, template, given, values)
            stack.tags = tags or stack.tags
            stack.set_status("UPDATE_IN_PROGRESS", "User Initiated")
            stack.updated = time.time()
            provisioning = self._deployment(stack, template, values, context)
            self._begin(stack, context, work)

    def delete(self, stack: Stack, context: StackContext) -> None:
        """Begin to delete a stack.

        Raises
        ------
        AwsError
            It is protected, or another stack imports what it exports.
        """
        if stack.protected:
            raise template_error(
                f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled"
            )
        if stack.status in ("DELETE_IN_PROGRESS", GONE):
            return
        importing = self._stacks.importer(stack)
        if importing:
            raise template_error(
                f"Export {importing[0]} cannot be deleted as it is in use by {importing[1]}"
            )
        context = context.in_stack(stack)
        template = Template.parse(stack.template) if stack.template else _EMPTY

        def work() -> None:
            stack.set_status("DELETE_IN_PROGRESS", "User Initiated")
            for resource in stack.resources.values():
                assume_created(resource, context)
            self._deployment(stack, template, {}, context).delete()
            if stack.status == GONE:
                stack.deleted, stack.outputs = time.time(), []

        # Work that has not ended yet sets states of its own; the deletion sets this one after it.
        if stack.in_progress:
            self._begin(stack, context, work)
            return
        with _restored_if_refused(stack):
            stack.status = "DELETE_IN_PROGRESS"
            self._begin(stack, context, work)

    def values(
        self, stack: Stack, template: Template, given: dict[str, str], context: StackContext
    ) -> dict[str, Any]:
        """Return all parameters, which the template's rules allow."""
        values = resolved_parameters(
            template.parameters, given, lambda name: _stored_parameter(name, context)
        )
        values |= {
            "AWS::AccountId": context.account,
            "AWS::NotificationARNs": [],
            "AWS::Partition": "aws",
            "AWS::Region": context.region,
            "AWS::StackId": stack.id,
            "AWS::StackName": stack.name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        Evaluator(template, values, _nothing, _nothing, {}).check_rules()
        return values

    def _deployment(
        self, stack: Stack, template: Template, values: dict[str, Any], context: StackContext
    ) -> Provisioning:
        exported = self._stacks.exported(context, stack)
        return Provisioning(stack, template, values, exported, context.in_stack(stack))

    def _create_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack = self.new_stack(members, context)
        failure = members.get("OnFailure") or (
            "DO_NOTHING" if is_true(members.get("DisableRollback")) else "ROLLBACK"
        )
        stack.on_failure = failure
        template = template_of(members, context, self._aws)
        given = given_parameters(members, {})
        self.create(stack, template, given, context)
        return {"StackId": stack.id}

    def _update_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        stack = self._stacks.find(members, context)
        template = template_of(members, context, self._aws, stack)
        given = given_parameters(members, stack.parameters)
        if stack.has(template.text, given):
            raise template_error("No updates are to be performed.")
        require_acknowledgement(template, members)
        self.update(stack, template, given, context, tags_of(members))
        return {"StackId": stack.id}

    def _delete_stack(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        try:
            stack = self._stacks.find(members, context)
        except AwsError:
            return {}  # as on AWS
        self.delete(stack, context)
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


def _describe(
    stack: Stack, template: Template, given: dict[str, str], values: dict[str, Any]
) -> None:
    """Write into a stack what was asked for."""
    stack.template, stack.parameters = template.text, given
    stack.description = template.description
    stack.shown = shown_parameters(template, values)


@contextlib.contextmanager
def _restored_if_refused(stack: Stack) -> Iterator[None]:
    """Put back what a stack was, should work on it be refused; nobody works on it yet."""
    before, events = dict(vars(stack)), list(stack.events)
    try:
        yield
    except AwsError:
        vars(stack).update(before)
        stack.events[:] = events
        raise


def _stored_parameter(name: str, context: StackContext) -> str:
    parameter = get_backend("ssm")[context.account][context.region].get_parameter(name)
    if parameter is None:
        raise LookupError(name)
    return str(parameter.value)


def _nothing(*_: str) -> Any:
    raise LookupError
