"""The work on a stack: its resources are made, changed and deleted, or all is as it was before.

States, events and their order are CloudFormation's (user guide, "Stack status codes" and "Update
behaviors of stack resources").
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.intrinsic_functions import Evaluator
from mmekit_local.aws.cloudformation.resource_types import resource_type_of
from mmekit_local.aws.cloudformation.stack import Resource, ResourceError, StackOutput
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Stack
    from mmekit_local.aws.cloudformation.template import Template

__all__ = ["Provisioning", "assume_created", "changes"]

logger = logging.getLogger("mmekit.endpoint")


class Provisioning:
    """One piece of work on one stack.

    Parameters
    ----------
    stack
        Is changed as the work goes on.
    template
        What the stack shall become; for a deletion, what it is.
    parameters
        All of them, with AWS's own.
    exported
        What other stacks export.
    context
        Where resources are made.
    """

    def __init__(
        self,
        stack: Stack,
        template: Template,
        parameters: Mapping[str, Any],
        exported: Mapping[str, str],
        context: StackContext,
    ) -> None:
        self._stack = stack
        self._template = template
        self._context = context
        self._evaluator = Evaluator(
            template,
            parameters,
            reference=lambda name: self._made(name).physical_id,
            attribute=self._attribute,
            exported=exported,
        )
        self._journal: list[tuple[Resource | None, Resource]] = []
        """What was there before, and what has been made of it, in the order of making."""

    def create(self) -> None:
        """Make everything, or nothing."""
        stack = self._stack
        try:
            self._make_all()
            outputs = self._outputs()
        except (ResourceError, AwsError) as error:
            if self._context.closing.is_set():
                return  # the next start says what became of it
            reason = f"{error} Rollback requested by user."
            if stack.on_failure == "DO_NOTHING":
                stack.set_status("CREATE_FAILED", str(error))
                return
            stack.set_status("ROLLBACK_IN_PROGRESS", reason)
            left = self._delete(reversed(list(stack.resources.values())), creating=True)
            if left:
                stack.set_status("ROLLBACK_FAILED", _failed_to("delete", left))
            else:
                stack.set_status("ROLLBACK_COMPLETE")
            return
        stack.outputs = outputs
        stack.set_status("CREATE_COMPLETE")

    def update(self) -> bool:
        """Change what differs, or nothing; say whether it has been changed."""
        stack, before = self._stack, dict(self._stack.resources)
        try:
            self._make_all()
            outputs = self._outputs()
        except (ResourceError, AwsError) as error:
            if self._context.closing.is_set():
                return False
            stack.set_status("UPDATE_ROLLBACK_IN_PROGRESS", str(error))
            failed = self._roll_back()
            stack.resources = before
            if failed:
                stack.set_status("UPDATE_ROLLBACK_FAILED", failed)
            else:
                stack.set_status("UPDATE_ROLLBACK_COMPLETE")
            return False
        stack.outputs = outputs
        stack.set_status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        stack.resources = {
            name: resource
            for name, resource in stack.resources.items()
            if name in self._template.resources
        }
        # A bucket's policy has the bucket's name, so that the type belongs to what it is.
        kept = {(resource.type, resource.physical_id) for resource in stack.resources.values()}
        old = [one for one in before.values() if (one.type, one.physical_id) not in kept]
        for resource in reversed(old):  # what cannot be cleaned up is left, as on AWS
            self._delete_one(resource, creating=False)
        stack.set_status("UPDATE_COMPLETE")
        return True

    def delete(self) -> None:
        """Delete everything that is not to be retained."""
        stack = self._stack
        left = self._delete(reversed(list(stack.resources.values())), creating=False)
        if left:
            stack.set_status("DELETE_FAILED", _failed_to("delete", left))
        else:
            stack.set_status("DELETE_COMPLETE")

    def _make_all(self) -> None:
        for name in self._template.order():
            described = self._template.resources[name]
            condition = described.get("Condition")
            if condition is not None and not self._evaluator.holds(condition):
                self._stack.resources.pop(name, None)
                continue
            try:
                self._make(name, described)
            except ResourceError as error:
                resource = self._stack.resources[name]
                verb = "create" if resource.status == "CREATE_IN_PROGRESS" else "update"
                self._stack.set_resource(resource, f"{verb.upper()}_FAILED", str(error))
                raise ResourceError(_failed_to(verb, [name])) from error

    def _make(self, name: str, described: dict[str, Any]) -> None:
        stack, old = self._stack, self._stack.resources.get(name)
        new = Resource(name, described["Type"], policy=described.get("DeletionPolicy", "Delete"))
        if old is None:
            stack.resources[name] = new
        self._context.go_on()
        try:
            new.properties = self._evaluator.value(described.get("Properties", {})) or {}
        except AwsError as error:
            raise ResourceError(error.message) from error
        if old is not None and old.type != new.type:
            raise ResourceError(f"Update of resource type is not permitted: {name}")
        if old is not None and old.properties == new.properties:
            # A DeletionPolicy is no property: on its own it changes nothing, and is no event.
            old.policy = new.policy
            return
        kind = resource_type_of(new.type)
        new.named = bool(new.properties.get(kind.name_property))
        if old is not None:
            self._change(old, new)
            return
        stack.set_resource(new, "CREATE_IN_PROGRESS")
        # Before the call: after a kill in its middle it is known what may be there, and its name is
        # worked out again.
        self._context.note(stack.id, new)
        self._journal.append((None, new))
        self._create(new, "CREATE_COMPLETE")

    def _create(self, new: Resource, status: str) -> None:
        with _errors_as_reasons():
            made = resource_type_of(new.type).create(self._context, new.logical_id, new.properties)
        new.physical_id, new.attributes = made.physical_id, made.attributes
        self._stack.set_resource(new, status)
        self._context.note(self._stack.id, new)

    def _change(self, old: Resource, new: Resource) -> None:
        kind, stack = resource_type_of(new.type), self._stack
        new.physical_id, new.attributes = old.physical_id, old.attributes
        stack.resources[new.logical_id] = new
        stack.set_resource(new, "UPDATE_IN_PROGRESS")
        # Before the call, too: one that fails may have changed something by then.
        self._journal.append((old, new))
        with _errors_as_reasons():
            made = kind.update(self._context, old, new.properties)
        if made is not None:
            new.physical_id, new.attributes = made.physical_id, made.attributes
            stack.set_resource(new, "UPDATE_COMPLETE")
            self._context.note(stack.id, new)
            return
        same_name = new.properties.get(kind.name_property) == old.properties.get(kind.name_property)
        if new.named and same_name:
            name = new.properties[kind.name_property]
            raise ResourceError(
                "CloudFormation cannot update a stack when a custom-named resource requires "
                f"replacing. Rename {name} and update the stack again."
            )
        reason = "Requested update requires the creation of a new physical resource; hence creating"
        stack.set_resource(new, "UPDATE_IN_PROGRESS", f"{reason} one.")
        self._create(new, "UPDATE_COMPLETE")

    def _roll_back(self) -> str:
        """Undo what has been made and changed; return why that failed, "" when it did not."""
        failures = []
        # What was cancelled is the operation: its rollback runs to the end all the same.
        context = replace(self._context, cancelled=threading.Event())
        for old, new in reversed(self._journal):
            kind = resource_type_of(new.type)
            try:
                with _errors_as_reasons():
                    if old is None or old.physical_id != new.physical_id:
                        if new.physical_id:
                            kind.delete(context, new)
                        continue
                    kind.update(context, new, old.properties)
                self._stack.set_resource(old, "UPDATE_COMPLETE")
            except ResourceError as error:
                failures.append(f"{new.logical_id}: {error}")
        return "; ".join(failures)

    def _delete(self, resources: Iterable[Resource], *, creating: bool) -> list[str]:
        return [
            resource.logical_id
            for resource in resources
            if not self._delete_one(resource, creating=creating)
        ]

    def _delete_one(self, resource: Resource, *, creating: bool) -> bool:
        """Delete a resource, or leave it as its policy wants; say whether that was done."""
        stack = self._stack
        if resource.status == "DELETE_COMPLETE" or not resource.physical_id:
            return True
        retained = resource.policy == "Retain" or (
            resource.policy == "RetainExceptOnCreate" and not creating
        )
        if retained:
            stack.set_resource(resource, "DELETE_SKIPPED")
            return True
        stack.set_resource(resource, "DELETE_IN_PROGRESS")
        try:
            with _errors_as_reasons():
                resource_type_of(resource.type).delete(self._context, resource)
        except ResourceError as error:
            stack.set_resource(resource, "DELETE_FAILED", str(error))
            return False
        stack.set_resource(resource, "DELETE_COMPLETE")
        self._context.note(stack.id, resource)
        return True

    def _outputs(self) -> list[StackOutput]:
        outputs = []
        for name, described in self._template.outputs.items():
            if "Condition" in described and not self._evaluator.holds(described["Condition"]):
                continue
            value = self._evaluator.value(described["Value"])
            export = self._evaluator.value(described.get("Export", {}).get("Name", ""))
            outputs.append(
                StackOutput(name, _text(value), str(described.get("Description", "")), str(export))
            )
        return outputs

    def _made(self, name: str) -> Resource:
        resource = self._stack.resources[name]
        if not resource.physical_id:
            raise LookupError(name)
        return resource

    def _attribute(self, name: str, attribute: str) -> Any:
        found: Any = self._made(name).attributes
        if attribute in found:
            return found[attribute]
        for part in re.split(r"\.", attribute):
            found = found[part]
        return copy.deepcopy(found)


def assume_created(resource: Resource, context: StackContext) -> None:
    """Take something for made in whose making the service ended, so that it gets deleted."""
    if resource.status == "CREATE_IN_PROGRESS" and not resource.physical_id:
        made = resource_type_of(resource.type).assumed(context, resource)
        resource.physical_id, resource.attributes = made.physical_id, made.attributes


def changes(stack: Stack, template: Template) -> tuple[tuple[str, str, str, str], ...]:
    """Return what a template would change of a stack, as far as names and texts tell.

    Values that depend on parameters or on other resources may turn out to be the same.
    """
    found = []
    for name, described in template.resources.items():
        old = stack.resources.get(name)
        if old is None:
            found.append(("Add", name, described["Type"], ""))
        else:
            found.append(("Modify", name, described["Type"], old.physical_id))
    for name, old in stack.resources.items():
        if name not in template.resources:
            found.append(("Remove", name, old.type, old.physical_id))
    return tuple(found)


@contextlib.contextmanager
def _errors_as_reasons() -> Iterator[None]:
    """Say of properties that are missing, or not of the form they should be, that they are."""
    try:
        yield
    except KeyError as error:
        raise ResourceError(f"Properties validation failed: [{error}] is missing") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ResourceError(f"Properties validation failed: {error}") from error


def _failed_to(verb: str, names: list[str]) -> str:
    return f"The following resource(s) failed to {verb}: [{', '.join(names)}]."


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
