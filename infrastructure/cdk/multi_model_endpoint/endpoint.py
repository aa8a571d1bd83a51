"""The construct: everything that a multi-model endpoint needs, from the bucket to the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_applicationautoscaling as scaling
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_deployment as deployment
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from multi_model_endpoint.choices import (
    Alarms,
    Instances,
    archives_in,
    checked_metrics,
    checked_name,
    checked_prefix,
    layers_in,
)
from multi_model_endpoint.exceptions import except_from
from multi_model_endpoint.monitoring import add_alarms, add_dashboard
from multi_model_endpoint.permissions import endpoint_role

if TYPE_CHECKING:
    from pathlib import Path

    from multi_model_endpoint.image import Image

__all__ = ["MultiModelEndpoint"]

_VARIANT = "AllTraffic"


class MultiModelEndpoint(Construct):
    """A multi-model endpoint on instances, with its bucket and the archives in it.

    Parameters
    ----------
    scope, construct_id
        As for every construct.
    endpoint_name
        The endpoint's; it cannot be changed without a new endpoint.
    image
        The container's.
    archives
        The folder whose ``*.tar.gz`` are the models. Models may be added to the bucket at any
        time, by whatever means: those that are not in the folder stay.
    prefix
        The key prefix of the archives, which SageMaker joins literally with the target model:
        for ``models`` target models begin with a slash (``/name.tar.gz``), for ``models/`` not.
    layers
        The folder with the layers of thin archives, which packing has left beside these; None for
        none. They go beside the prefix of the archives, and the containers are told where.
    instances
        What the endpoint runs on.
    alarms
        When somebody is to look.
    metrics
        Of what model processes tell CloudWatch: ``none``, ``endpoint``, or ``models``, where every
        metric of every model is billed.

    Attributes
    ----------
    bucket : aws_s3.Bucket
    role : aws_iam.Role
    endpoint : aws_sagemaker.CfnEndpoint
    model_data_url : str
    """

    def __init__(  # noqa: PLR0913 - each may be chosen
        self,
        scope: Construct,
        construct_id: str,
        *,
        endpoint_name: str,
        image: Image,
        archives: Path,
        prefix: str = "models",
        layers: Path | None = None,
        instances: Instances | None = None,
        alarms: Alarms | None = None,
        metrics: str = "none",
    ) -> None:
        super().__init__(scope, construct_id)
        instances, alarms = instances or Instances(), alarms or Alarms()
        checked_name(endpoint_name)
        checked_prefix(prefix)
        checked_metrics(metrics)
        archives_in(archives)
        layers_prefix = None
        if layers is not None:
            layers_in(layers)
            layers_prefix = f"{prefix.rstrip('/')}-layers/"
        self.bucket = self._bucket()
        self.role = endpoint_role(
            self,
            bucket=self.bucket,
            prefix=prefix,
            layers_prefix=layers_prefix,
            image=image,
            endpoint_name=endpoint_name,
        )
        self.model_data_url = f"s3://{self.bucket.bucket_name}/{prefix}"
        environment = {}
        if layers_prefix is not None:
            environment["MMEKIT_LAYERS"] = f"s3://{self.bucket.bucket_name}/{layers_prefix}"
        if metrics != "none":
            environment |= {"MMEKIT_METRICS": endpoint_name, "MMEKIT_METRICS_PER": metrics}
        model = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=self.role.role_arn,
            containers=[
                sagemaker.CfnModel.ContainerDefinitionProperty(
                    image=image.uri,
                    mode="MultiModel",
                    model_data_url=self.model_data_url,
                    environment=environment or None,
                )
            ],
        )
        # SageMaker looks at the prefix and for the image with this role, at once.
        model.node.add_dependency(self.role.node.find_child("DefaultPolicy"))
        model.node.add_dependency(self._deployment("Deployment", archives, prefix))
        if layers is not None and layers_prefix is not None:
            model.node.add_dependency(self._deployment("Layers", layers, layers_prefix))
        config = sagemaker.CfnEndpointConfig(
            self,
            "Config",
            production_variants=[
                sagemaker.CfnEndpointConfig.ProductionVariantProperty(
                    variant_name=_VARIANT,
                    model_name=model.attr_model_name,
                    instance_type=instances.type,
                    initial_instance_count=instances.least,
                    initial_variant_weight=1,
                )
            ],
        )
        self.endpoint = sagemaker.CfnEndpoint(
            self,
            "Endpoint",
            endpoint_name=endpoint_name,
            endpoint_config_name=config.attr_endpoint_config_name,
        )
        self._scale(instances)
        dimensions = {
            "EndpointName": self.endpoint.attr_endpoint_name,
            "VariantName": _VARIANT,
        }
        add_alarms(self, dimensions, alarms)
        dashboard_name = f"{endpoint_name}-models"
        add_dashboard(self, dimensions, dashboard_name, metrics=metrics)
        for name, value in (
            ("EndpointName", self.endpoint.attr_endpoint_name),
            ("BucketName", self.bucket.bucket_name),
            ("ModelDataUrl", self.model_data_url),
            ("DashboardName", dashboard_name),
        ):
            cdk.CfnOutput(self, name, value=value).override_logical_id(name)

    def _bucket(self) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Archives",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            # Archives are built from sources and can be deployed again: destroy leaves nothing.
            removal_policy=cdk.RemovalPolicy.DESTROY,
            auto_delete_objects=True,
        )
        except_from(
            "AwsSolutions-S1",
            bucket,
            "Access logs want a second bucket that outlives this one; CloudTrail's data "
            "events tell who read an archive.",
        )
        return bucket

    def _deployment(
        self, construct_id: str, folder: Path, prefix: str
    ) -> deployment.BucketDeployment:
        source = deployment.Source.asset(
            str(folder), exclude=["*", "!*.tar.gz"], ignore_mode=cdk.IgnoreMode.GIT
        )
        return deployment.BucketDeployment(
            self,
            construct_id,
            sources=[source],
            destination_bucket=self.bucket,
            destination_key_prefix=prefix.rstrip("/"),
            prune=False,
            memory_limit=1024,
            ephemeral_storage_size=cdk.Size.gibibytes(4),
        )

    def _scale(self, instances: Instances) -> None:
        target = scaling.CfnScalableTarget(
            self,
            "ScalingTarget",
            service_namespace="sagemaker",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            resource_id=f"endpoint/{self.endpoint.attr_endpoint_name}/variant/{_VARIANT}",
            min_capacity=instances.least,
            max_capacity=instances.most,
        )
        policy = scaling.CfnScalingPolicy
        policy(
            self,
            "ScalingPolicy",
            policy_name=f"{self.endpoint.endpoint_name}-invocations",
            policy_type="TargetTrackingScaling",
            scaling_target_id=target.ref,
            target_tracking_scaling_policy_configuration=(
                policy.TargetTrackingScalingPolicyConfigurationProperty(
                    target_value=instances.invocations,
                    predefined_metric_specification=policy.PredefinedMetricSpecificationProperty(
                        predefined_metric_type="SageMakerVariantInvocationsPerInstance"
                    ),
                    scale_out_cooldown=60,
                    scale_in_cooldown=300,
                )
            ),
        )
