"""A CloudFormation template: which one a request means, its text, the order of its resources."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import yaml

from mmekit_local.aws.cloudformation.stack import template_error
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Stack
    from mmekit_local.aws.moto.aws import Aws

__all__ = [
    "Template",
    "needed_capabilities",
    "references",
    "require_acknowledgement",
    "template_of",
]

_SECTIONS = frozenset(
    {
        "AWSTemplateFormatVersion",
        "Conditions",
        "Description",
        "Mappings",
        "Metadata",
        "Outputs",
        "Parameters",
        "Resources",
        "Rules",
    }
)
_LARGEST_BYTES = 1 << 20
_SUBSTITUTED = re.compile(r"\$\{([^!{}][^{}]*)\}")


@dataclass(frozen=True)
class Template:
    """A template as its sections, functions in their long form.

    Attributes
    ----------
    text
        As it was given.
    """

    text: str
    description: str
    parameters: dict[str, dict[str, Any]]
    mappings: dict[str, Any]
    conditions: dict[str, Any]
    rules: dict[str, Any]
    resources: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read JSON or YAML.

        Raises
        ------
        AwsError
            It is neither, or no template.
        """
        if len(text.encode()) > _LARGEST_BYTES:
            raise template_error("Template may not exceed 1000000 bytes in size.")
        sections = _loaded(text)
        if not isinstance(sections, dict):
            raise template_error("Template format error: unsupported structure.")
        if "Transform" in sections:
            raise template_error("Transforms are not supported here: expand the template first.")
        unknown = sorted(set(map(str, sections)) - _SECTIONS)
        if unknown:
            raise template_error(f"Invalid template property or properties [{', '.join(unknown)}]")
        template = cls(
            text=text,
            description=str(sections.get("Description") or ""),
            parameters=_section(sections, "Parameters"),
            mappings=_section(sections, "Mappings"),
            conditions=_section(sections, "Conditions"),
            rules=_section(sections, "Rules"),
            resources=_section(sections, "Resources"),
            outputs=_section(sections, "Outputs"),
        )
        template._check()
        return template

    def order(self) -> list[str]:
        """Return the resources' names, each after those that it needs.

        Raises
        ------
        AwsError
            They need each other in a circle.
        """
        needed = {
            name: (references(described) | _depends_on(described)) & set(self.resources)
            for name, described in self.resources.items()
        }
        ordered: list[str] = []
        while needed:
            free = [name for name, others in needed.items() if not others - set(ordered)]
            if not free:
                circle = ", ".join(sorted(needed))
                raise template_error(f"Circular dependency between resources: [{circle}]")
            ordered += free
            for name in free:
                del needed[name]
        return ordered

    def _check(self) -> None:
        if not self.resources:
            raise template_error(
                "Template format error: At least one Resources member must be defined."
            )
        for name, described in self.resources.items():
            if not _is_resource(described):
                raise template_error(
                    f"Template format error: [/Resources/{name}] Every Resources object must "
                    "contain a Type member."
                )
            if not re.fullmatch(r"[A-Za-z0-9]+", name):
                raise template_error(
                    f"Template format error: Resource name {name} is non alphanumeric."
                )
        known = set(self.resources) | set(self.parameters)
        for where, section in (("Resources", self.resources), ("Outputs", self.outputs)):
            unknown = sorted(
                name for name in references(section) - known if not name.startswith("AWS::")
            )
            if unknown:
                raise template_error(
                    "Template format error: Unresolved resource dependencies "
                    f"[{', '.join(unknown)}] in the {where} block of the template"
                )
        self.order()


def _is_resource(described: object) -> bool:
    return isinstance(described, dict) and isinstance(described.get("Type"), str)


def references(value: Any) -> set[str]:
    """Return the names that Ref, Fn::GetAtt and Fn::Sub mention in a part of a template."""
    if isinstance(value, list):
        return set().union(*(references(item) for item in value))
    if not isinstance(value, dict):
        return set()
    if len(value) == 1:
        [(function, argument)] = value.items()
        if function == "Ref":
            return {str(argument)}
        if function == "Fn::GetAtt" and isinstance(argument, (list, str)):
            return {_attribute(argument)[0]}
        if function == "Fn::Sub":
            return _substituted(argument)
    return set().union(*(references(item) for item in value.values()))


def _substituted(argument: Any) -> set[str]:
    text, given = (argument, {}) if isinstance(argument, str) else argument
    names = {name.strip().partition(".")[0] for name in _SUBSTITUTED.findall(text)}
    return (names - set(given)) | references(given)


def _attribute(argument: list[Any] | str) -> tuple[str, str]:
    if isinstance(argument, str):
        name, _, attribute = argument.partition(".")
        return name, attribute
    return str(argument[0]), ".".join(map(str, argument[1:]))


def _depends_on(described: dict[str, Any]) -> set[str]:
    given = described.get("DependsOn", [])
    return {given} if isinstance(given, str) else set(given)


def _section(sections: dict[str, Any], name: str) -> dict[str, Any]:
    found = sections.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise template_error(f"Template format error: {name} must be an object.")
    return {str(key): value for key, value in found.items()}


def needed_capabilities(template: Template) -> list[str]:
    """Return the capabilities that a template's author must have acknowledged."""
    iam = [one for one in template.resources.values() if one["Type"].startswith("AWS::IAM::")]
    names = ("RoleName", "UserName", "GroupName", "ManagedPolicyName", "InstanceProfileName")
    if any(name in one.get("Properties", {}) for one in iam for name in names):
        return ["CAPABILITY_NAMED_IAM"]
    return ["CAPABILITY_IAM"] if iam else []


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags; dates stay text, as in "Version: 2012-10-17"."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Read a node; CloudFormation wants no aliases."""
        if self.check_event(yaml.AliasEvent):
            raise template_error(
                "Template error: YAML aliases are not allowed in CloudFormation templates"
            )
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    if suffix in ("Ref", "Condition"):
        return {suffix: value}
    if suffix == "GetAtt":
        return {"Fn::GetAtt": list(_attribute(value))}
    return {f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tagged)


def _loaded(text: str) -> Any:
    # JSON first: PyYAML takes no tabs, which JSON may be indented with.
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with a few tags
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f" (line {where.line + 1}, column {where.column + 1})"
        problem = getattr(error, "problem", None) or type(error).__name__
        raise template_error(f"Template format error: YAML not well-formed.{line} {problem}") from (
            error
        )


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
