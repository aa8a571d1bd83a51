"""AWS::CloudWatch, AWS::Logs and AWS::SNS: alarms, dashboards, log groups, topics."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.errors import ResourceError
from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["Alarm", "Dashboard", "LogGroup", "Topic", "TopicPolicy"]


class Alarm(Kind):
    """AWS::CloudWatch::Alarm."""

    name_property = "AlarmName"
    longest = 255

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        return self._put(site, self.name(site, logical_id, properties), properties)

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("AlarmName") != resource.properties.get("AlarmName"):
            return None
        return self._put(site, resource.physical_id, properties)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("cloudwatch", "DeleteAlarms", AlarmNames=[resource.physical_id])

    @staticmethod
    def _put(site: Site, name: str, properties: dict[str, Any]) -> Made:
        site.call("cloudwatch", "PutMetricAlarm", **{**properties, "AlarmName": name})
        return Made(name, {"Arn": f"arn:aws:cloudwatch:{site.region}:{site.account}:alarm:{name}"})


class Dashboard(Kind):
    """AWS::CloudWatch::Dashboard."""

    name_property = "DashboardName"
    longest = 255

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        return self._put(site, self.name(site, logical_id, properties), properties)

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("DashboardName") != resource.properties.get("DashboardName"):
            return None
        return self._put(site, resource.physical_id, properties)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("cloudwatch", "DeleteDashboards", DashboardNames=[resource.physical_id])

    @staticmethod
    def _put(site: Site, name: str, properties: dict[str, Any]) -> Made:
        body = properties["DashboardBody"]
        text = body if isinstance(body, str) else json.dumps(body)
        try:
            json.loads(text)
        except ValueError as error:
            raise ResourceError(f"The DashboardBody is no JSON: {error}") from error
        site.call("cloudwatch", "PutDashboard", DashboardName=name, DashboardBody=text)
        return Made(name)


class LogGroup(Kind):
    """AWS::Logs::LogGroup."""

    name_property = "LogGroupName"
    longest = 512

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        site.call("logs", "CreateLogGroup", logGroupName=name)
        self._retain(site, name, properties)
        return Made(name, {"Arn": f"arn:aws:logs:{site.region}:{site.account}:log-group:{name}:*"})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("LogGroupName") != resource.properties.get("LogGroupName"):
            return None
        self._retain(site, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("logs", "DeleteLogGroup", logGroupName=resource.physical_id)

    @staticmethod
    def _retain(site: Site, name: str, properties: dict[str, Any]) -> None:
        days = properties.get("RetentionInDays")
        if days is not None:
            site.call("logs", "PutRetentionPolicy", logGroupName=name, retentionInDays=days)


class Topic(Kind):
    """AWS::SNS::Topic, with its subscriptions."""

    name_property = "TopicName"
    longest = 256

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        arn = str(site.call("sns", "CreateTopic", Name=name)["TopicArn"])
        key = properties.get("KmsMasterKeyId")
        if key is not None:
            site.call(
                "sns",
                "SetTopicAttributes",
                TopicArn=arn,
                AttributeName="KmsMasterKeyId",
                AttributeValue=key,
            )
        for one in properties.get("Subscription", ()):
            site.call(
                "sns",
                "Subscribe",
                TopicArn=arn,
                Protocol=one["Protocol"],
                Endpoint=one.get("Endpoint"),
            )
        return Made(arn, {"TopicArn": arn, "TopicName": name})

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("sns", "DeleteTopic", TopicArn=resource.physical_id)


class TopicPolicy(Kind):
    """AWS::SNS::TopicPolicy; it goes with its topics."""

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        document = json.dumps(properties["PolicyDocument"])
        for arn in properties["Topics"]:
            site.call(
                "sns",
                "SetTopicAttributes",
                TopicArn=arn,
                AttributeName="Policy",
                AttributeValue=document,
            )
        return Made(site.new_name(logical_id, properties))

    def delete(self, site: Site, resource: Resource) -> None:
        """Leave it to the topics' own deletion."""
