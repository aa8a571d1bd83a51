"""Alarms and a dashboard for a multi-model endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns

if TYPE_CHECKING:
    from constructs import Construct

    from multi_model_endpoint.choices import Alarms

__all__ = ["add_alarms", "add_dashboard"]

_ENDPOINTS = "AWS/SageMaker"
_INSTANCES = "/aws/sagemaker/Endpoints"
_MODELS = "mmekit"
_US_PER_MS = 1000


def add_alarms(
    scope: Construct, dimensions: dict[str, str], chosen: Alarms
) -> list[cloudwatch.Alarm]:
    """Add alarms of errors, latency, memory and disk.

    Parameters
    ----------
    scope
        Where they go.
    dimensions
        EndpointName and VariantName.
    chosen
        Their thresholds, and whom they tell.
    """
    minutes = cdk.Duration.minutes
    at_least = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
    above = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
    described = (
        ("Errors", _ENDPOINTS, "Invocation5XXErrors", "Sum", chosen.errors, 1, at_least,
         "The endpoint answers with 5xx: look into its log and at its memory."),
        ("Latency", _ENDPOINTS, "ModelLatency", "p99", chosen.latency_ms * _US_PER_MS, 3, above,
         "The slowest hundredth of the calls takes too long: look at cold loads and instances."),
        ("Memory", _INSTANCES, "MemoryUtilization", "Maximum", chosen.memory_percent, 2, above,
         "Memory runs short: models are about to be unloaded and loaded again."),
        ("Disk", _INSTANCES, "DiskUtilization", "Maximum", chosen.disk_percent, 2, above,
         "Disks fill up: archives are about to be deleted and downloaded again."),
    )  # fmt: skip
    topic = None
    if chosen.topic_arn is not None:
        topic = sns.Topic.from_topic_arn(scope, "AlarmTopic", chosen.topic_arn)
    alarms = []
    for name, namespace, metric, statistic, threshold, periods, comparison, text in described:
        alarm = cloudwatch.Alarm(
            scope,
            f"{name}Alarm",
            alarm_description=text,
            metric=cloudwatch.Metric(
                namespace=namespace,
                metric_name=metric,
                dimensions_map=dimensions,
                statistic=statistic,
                period=minutes(5),
            ),
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=comparison,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        if topic is not None:
            alarm.add_alarm_action(actions.SnsAction(topic))
            alarm.add_ok_action(actions.SnsAction(topic))
        alarms.append(alarm)
    return alarms


def add_dashboard(
    scope: Construct, dimensions: dict[str, str], name: str, metrics: str = "none"
) -> cloudwatch.Dashboard:
    """Add a dashboard of what matters for many models: loads, hits, overhead, memory and disk.

    Parameters
    ----------
    scope
        Where it goes.
    dimensions
        EndpointName and VariantName.
    name
        The dashboard's.
    metrics
        Of what model processes tell: ``none``, ``endpoint`` or ``models``.
    """

    def graph(
        title: str, statistic: str, *metrics: tuple[str, str], share: bool = False
    ) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(
            title=title,
            width=12,
            left_y_axis=cloudwatch.YAxisProps(min=0, max=1) if share else None,
            left=[
                cloudwatch.Metric(
                    namespace=namespace,
                    metric_name=metric,
                    dimensions_map=dimensions,
                    statistic=statistic,
                    period=cdk.Duration.minutes(1),
                )
                for namespace, metric in metrics
            ],
        )

    dashboard = cloudwatch.Dashboard(scope, "Dashboard", dashboard_name=name)
    dashboard.add_widgets(
        graph("Loaded models", "Average", (_INSTANCES, "LoadedModelCount")),
        graph(
            "Cache hits (share of the calls)", "Average", (_ENDPOINTS, "ModelCacheHit"), share=True
        ),
        graph(
            "Load time (microseconds)",
            "p99",
            (_ENDPOINTS, "ModelLoadingWaitTime"),
            (_ENDPOINTS, "ModelDownloadingTime"),
            (_ENDPOINTS, "ModelLoadingTime"),
            (_ENDPOINTS, "ModelUnloadingTime"),
        ),
        graph(
            "Latency and overhead (microseconds)",
            "p99",
            (_ENDPOINTS, "ModelLatency"),
            (_ENDPOINTS, "OverheadLatency"),
        ),
        graph(
            "Invocations and errors",
            "Sum",
            (_ENDPOINTS, "Invocations"),
            (_ENDPOINTS, "Invocation4XXErrors"),
            (_ENDPOINTS, "Invocation5XXErrors"),
            (_ENDPOINTS, "InvocationModelErrors"),
        ),
        graph(
            "Memory, disk and processor (%)",
            "Maximum",
            (_INSTANCES, "MemoryUtilization"),
            (_INSTANCES, "DiskUtilization"),
            (_INSTANCES, "CPUUtilization"),
        ),
    )
    if metrics != "none":
        dashboard.add_widgets(*_of_processes(dimensions["EndpointName"]))
    if metrics == "models":
        dashboard.add_widgets(*_of_models(dimensions["EndpointName"]))
    return dashboard


def _of_processes(endpoint: str) -> list[cloudwatch.IWidget]:
    """Return graphs of what all models of the endpoint tell together."""
    described = (
        ("Requests and errors of the model processes", "Sum", ("requests", "errors", "refused")),
        ("Queue and predict time (seconds)", "p99", ("queue_seconds", "predict_seconds")),
        ("Loads, parks and wakes", "Sum", ("loads", "parks", "wakes")),
        ("Memory of a model process (bytes)", "Maximum", ("memory_bytes",)),
    )
    return [
        cloudwatch.GraphWidget(
            title=title,
            width=12,
            left=[
                cloudwatch.Metric(
                    namespace=_MODELS,
                    metric_name=_metric(name),
                    dimensions_map={"Endpoint": endpoint},
                    statistic=statistic,
                    period=cdk.Duration.minutes(1),
                )
                for name in names
            ],
        )
        for title, statistic, names in described
    ]


def _of_models(endpoint: str) -> list[cloudwatch.IWidget]:
    """Return graphs that look for the models that there are whenever they are drawn."""
    by_model, by_column = f"{_MODELS},Endpoint,Model", f"{_MODELS},Endpoint,Model,Column"
    columns = ("missing_values", "unseen_categories", "refused_columns")
    described = (
        ("Requests of the 20 busiest models", by_model, ("requests",), "Sum", "SUM", 20),
        ("Errors of the 20 models with the most", by_model, ("errors",), "Sum", "SUM", 20),
        ("Predict time of the 20 slowest models (p99, seconds)", by_model,
         ("predict_seconds",), "p99", "MAX", 20),
        ("Drift: missing values, unseen categories, refused requests by column", by_column,
         columns, "Sum", "SUM", 10),
    )  # fmt: skip
    minutes = {by_model: 1, by_column: 5}
    return [
        cloudwatch.GraphWidget(
            title=title,
            width=12,
            left=[
                cloudwatch.MathExpression(
                    expression=f'SORT(SEARCH(\'{{{searched}}} MetricName="{_metric(name)}" '
                    f"Endpoint=\"{endpoint}\"', '{statistic}', {minutes[searched] * 60}), "
                    f"{order}, DESC, {most})",
                    label="",
                    period=cdk.Duration.minutes(minutes[searched]),
                )
                for name in names
            ],
        )
        for title, searched, names, statistic, order, most in described
    ]


def _metric(name: str) -> str:
    return f"mme_model_{name}" + ("" if name.endswith(("_seconds", "_bytes")) else "_total")
