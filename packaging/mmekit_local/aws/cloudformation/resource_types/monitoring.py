"""AWS::CloudWatch, AWS::Logs and AWS::SNS: alarms, dashboards, log groups, topics."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = ["AlarmType", "DashboardType", "LogGroupType", "TopicPolicyType", "TopicType"]


class AlarmType(ResourceType):
    """AWS::CloudWatch::Alarm."""

    name_property = "AlarmName"
    longest = 255

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        return self._put(context, self.name(context, logical_id, properties), properties)

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        return self._put(context, resource.physical_id, properties)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("cloudwatch", "DeleteAlarms", AlarmNames=[resource.physical_id])

    @staticmethod
    def _put(context: StackContext, name: str, properties: dict[str, Any]) -> PhysicalResource:
        context.call("cloudwatch", "PutMetricAlarm", **{**properties, "AlarmName": name})
        return PhysicalResource(
            name, {"Arn": f"arn:aws:cloudwatch:{context.region}:{context.account}:alarm:{name}"}
        )


class DashboardType(ResourceType):
    """AWS::CloudWatch::Dashboard."""

    name_property = "DashboardName"
    longest = 255

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        return self._put(context, self.name(context, logical_id, properties), properties)

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        return self._put(context, resource.physical_id, properties)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("cloudwatch", "DeleteDashboards", DashboardNames=[resource.physical_id])

    @staticmethod
    def _put(context: StackContext, name: str, properties: dict[str, Any]) -> PhysicalResource:
        body = properties["DashboardBody"]
        text = body if isinstance(body, str) else json.dumps(body)
        try:
            json.loads(text)
        except ValueError as error:
            raise ResourceError(f"The DashboardBody is no JSON: {error}") from error
        context.call("cloudwatch", "PutDashboard", DashboardName=name, DashboardBody=text)
        return PhysicalResource(name)


class LogGroupType(ResourceType):
    """AWS::Logs::LogGroup."""

    name_property = "LogGroupName"
    longest = 512

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        context.call("logs", "CreateLogGroup", logGroupName=name)
        self._retain(context, name, properties)
        return PhysicalResource(
            name, {"Arn": f"arn:aws:logs:{context.region}:{context.account}:log-group:{name}:*"}
        )

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        self._retain(context, resource.physical_id, properties)
        return PhysicalResource(resource.physical_id, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("logs", "DeleteLogGroup", logGroupName=resource.physical_id)

    @staticmethod
    def _retain(context: StackContext, name: str, properties: dict[str, Any]) -> None:
        days = properties.get("RetentionInDays")
        if days is not None:
            context.call("logs", "PutRetentionPolicy", logGroupName=name, retentionInDays=days)


class TopicType(ResourceType):
    """AWS::SNS::Topic, with its subscriptions."""

    name_property = "TopicName"
    longest = 256

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        arn = str(context.call("sns", "CreateTopic", Name=name)["TopicArn"])
        key = properties.get("KmsMasterKeyId")
        if key is not None:
            context.call(
                "sns",
                "SetTopicAttributes",
                TopicArn=arn,
                AttributeName="KmsMasterKeyId",
                AttributeValue=key,
            )
        for one in properties.get("Subscription", ()):
            context.call(
                "sns",
                "Subscribe",
                TopicArn=arn,
                Protocol=one["Protocol"],
                Endpoint=one.get("Endpoint"),
            )
        return PhysicalResource(arn, {"TopicArn": arn, "TopicName": name})

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("sns", "DeleteTopic", TopicArn=resource.physical_id)


class TopicPolicyType(ResourceType):
    """AWS::SNS::TopicPolicy; it goes with its topics."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        document = json.dumps(properties["PolicyDocument"])
        for arn in properties["Topics"]:
            context.call(
                "sns",
                "SetTopicAttributes",
                TopicArn=arn,
                AttributeName="Policy",
                AttributeValue=document,
            )
        return PhysicalResource(context.new_name(logical_id, properties))

    def delete(self, context: StackContext, resource: Resource) -> None:
        """Leave it to the topics' own deletion."""
