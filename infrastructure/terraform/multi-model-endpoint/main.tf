# A multi-model endpoint on instances: the models are the archives under one prefix of a bucket.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region
  variant   = "AllTraffic"

  bucket         = var.artifact_bucket != null ? var.artifact_bucket : one(aws_s3_bucket.this[*].bucket)
  bucket_arn     = "arn:${local.partition}:s3:::${local.bucket}"
  model_data_url = "s3://${local.bucket}/${var.model_prefix}/"
  layers_url     = var.layer_prefix == "" ? null : "s3://${local.bucket}/${var.layer_prefix}/"

  image = regex("^(?P<account>[0-9]{12})\\.dkr\\.ecr\\.(?P<region>[a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/(?P<repository>[a-z0-9/_.-]+)[:@]", var.image_uri)

  environment = merge(
    var.environment,
    # What is given goes first: a folder of an image of one's own needs no network.
    { for name in ["MMEKIT_LAYERS"] : name => join(",", compact([lookup(var.environment, name, ""), local.layers_url])) if local.layers_url != null },
    { for name, value in { MMEKIT_METRICS = var.endpoint_name, MMEKIT_METRICS_PER = var.metrics } : name => value if var.metrics != "none" },
  )

  # A model and a config are never changed. One that differs has another name, so that the endpoint
  # can move to it before the old one goes.
  container = {
    image       = var.image_uri
    url         = local.model_data_url
    cache       = var.model_cache_setting
    environment = local.environment
    subnets     = sort(var.subnet_ids)
    groups      = sort(var.security_group_ids)
    role        = aws_iam_role.this.arn
  }
  # At most 63 characters, as AWS counts them.
  stem = trim(substr(var.endpoint_name, 0, 50), "-")
}

resource "aws_sagemaker_model" "this" {
  name               = "${local.stem}-${substr(sha256(jsonencode(local.container)), 0, 12)}"
  execution_role_arn = aws_iam_role.this.arn
  tags               = var.tags

  primary_container {
    image          = var.image_uri
    mode           = "MultiModel"
    model_data_url = local.model_data_url
    environment    = local.environment

    multi_model_config {
      model_cache_setting = var.model_cache_setting
    }
  }

  dynamic "vpc_config" {
    for_each = length(var.subnet_ids) > 0 ? [true] : []

    content {
      subnets            = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }

  # SageMaker looks at the prefix and for the image with this role, at once.
  depends_on = [aws_iam_role_policy.this, aws_s3_object.archive, aws_s3_object.layer]

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = (length(var.subnet_ids) == 0) == (length(var.security_group_ids) == 0)
      error_message = "subnet_ids and security_group_ids: both, or neither."
    }

    precondition {
      condition     = var.max_instances >= var.min_instances
      error_message = "max_instances: not below min_instances."
    }
  }
}

resource "aws_sagemaker_endpoint_configuration" "this" {
  name = "${local.stem}-${substr(sha256(jsonencode([
    aws_sagemaker_model.this.name, var.instance_type, var.min_instances, var.volume_gb, var.volume_key_arn
  ])), 0, 12)}"
  kms_key_arn = var.volume_key_arn == "" ? null : var.volume_key_arn
  tags        = var.tags

  production_variants {
    variant_name           = local.variant
    model_name             = aws_sagemaker_model.this.name
    instance_type          = var.instance_type
    initial_instance_count = var.min_instances
    initial_variant_weight = 1
    volume_size_in_gb      = var.volume_gb
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint" "this" {
  name                 = var.endpoint_name
  endpoint_config_name = aws_sagemaker_endpoint_configuration.this.name
  tags                 = var.tags

  dynamic "deployment_config" {
    for_each = var.rollout == null ? [] : [var.rollout]

    content {
      blue_green_update_policy {
        termination_wait_in_seconds = deployment_config.value.keep_old_minutes * 60

        traffic_routing_configuration {
          type = deployment_config.value.canary != null ? "CANARY" : deployment_config.value.linear != null ? "LINEAR" : "ALL_AT_ONCE"
          wait_interval_in_seconds = 60 * one([
            for kind in [deployment_config.value.all_at_once, deployment_config.value.canary, deployment_config.value.linear] : kind.wait_minutes if kind != null
          ])

          dynamic "canary_size" {
            for_each = deployment_config.value.canary[*]

            content {
              type  = "CAPACITY_PERCENT"
              value = canary_size.value.percent
            }
          }

          dynamic "linear_step_size" {
            for_each = deployment_config.value.linear[*]

            content {
              type  = "CAPACITY_PERCENT"
              value = linear_step_size.value.percent
            }
          }
        }
      }

      auto_rollback_configuration {
        # Memory and disk of a multi-model endpoint fill up by design: they take nothing back.
        dynamic "alarms" {
          for_each = ["5xx", "latency"]

          content {
            alarm_name = aws_cloudwatch_metric_alarm.this[alarms.value].alarm_name
          }
        }
      }
    }
  }
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "sagemaker"
  scalable_dimension = "sagemaker:variant:DesiredInstanceCount"
  resource_id        = "endpoint/${aws_sagemaker_endpoint.this.name}/variant/${local.variant}"
  min_capacity       = var.min_instances
  max_capacity       = var.max_instances
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "this" {
  name               = "${var.endpoint_name}-invocations"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  resource_id        = aws_appautoscaling_target.this.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.invocations_per_instance
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "SageMakerVariantInvocationsPerInstance"
    }
  }
}
