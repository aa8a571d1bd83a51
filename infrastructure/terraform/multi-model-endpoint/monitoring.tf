# Alarms of errors, latency, memory and disk, and a dashboard of what matters for many models.

locals {
  # By its name and not by the endpoint: an update is rolled back by these, so they are there first.
  dimensions = { EndpointName = var.endpoint_name, VariantName = local.variant }

  alarms = {
    "5xx" = {
      text       = "${var.endpoint_name} answers with 5xx. Look into its log and at its memory."
      namespace  = "AWS/SageMaker"
      metric     = "Invocation5XXErrors"
      statistic  = "Sum"
      comparison = "GreaterThanOrEqualToThreshold"
      threshold  = var.max_errors
      periods    = 1
    }
    latency = {
      text       = "The slowest hundredth of ${var.endpoint_name}'s calls takes too long. Look at cold loads in the dashboard, and at the number of instances."
      namespace  = "AWS/SageMaker"
      metric     = "ModelLatency"
      statistic  = "p99"
      comparison = "GreaterThanThreshold"
      threshold  = var.max_latency_milliseconds * 1000
      periods    = 3
    }
    memory = {
      text       = "${var.endpoint_name} is short of memory: models are about to be unloaded and loaded again."
      namespace  = "/aws/sagemaker/Endpoints"
      metric     = "MemoryUtilization"
      statistic  = "Maximum"
      comparison = "GreaterThanThreshold"
      threshold  = var.max_memory_percent
      periods    = 2
    }
    disk = {
      text       = "The disks of ${var.endpoint_name} fill up: archives are about to be deleted and downloaded again."
      namespace  = "/aws/sagemaker/Endpoints"
      metric     = "DiskUtilization"
      statistic  = "Maximum"
      comparison = "GreaterThanThreshold"
      threshold  = var.max_disk_percent
      periods    = 2
    }
  }

  told = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]

  endpoint_dimensions = ["EndpointName", var.endpoint_name, "VariantName", local.variant]

  graphs = concat(
    [
      {
        title   = "Loaded models"
        stat    = "Average"
        metrics = [concat(["/aws/sagemaker/Endpoints", "LoadedModelCount"], local.endpoint_dimensions)]
      },
      {
        title   = "Cache hits (share of the calls)"
        stat    = "Average"
        metrics = [concat(["AWS/SageMaker", "ModelCacheHit"], local.endpoint_dimensions)]
      },
      {
        title = "Load time (microseconds)"
        stat  = "p99"
        metrics = [
          for name in ["ModelLoadingWaitTime", "ModelDownloadingTime", "ModelLoadingTime", "ModelUnloadingTime"] :
          concat(["AWS/SageMaker", name], local.endpoint_dimensions)
        ]
      },
      {
        title = "Latency and overhead (microseconds)"
        stat  = "p99"
        metrics = [
          for name in ["ModelLatency", "OverheadLatency"] :
          concat(["AWS/SageMaker", name], local.endpoint_dimensions)
        ]
      },
      {
        title = "Invocations and errors"
        stat  = "Sum"
        metrics = [
          for name in ["Invocations", "Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors"] :
          concat(["AWS/SageMaker", name], local.endpoint_dimensions)
        ]
      },
      {
        title = "Memory, disk and processor (%)"
        stat  = "Maximum"
        metrics = [
          for name in ["MemoryUtilization", "DiskUtilization", "CPUUtilization"] :
          concat(["/aws/sagemaker/Endpoints", name], local.endpoint_dimensions)
        ]
      },
    ],
    [for one in [
      {
        title = "Requests and errors of the model processes"
        stat  = "Sum"
        metrics = [
          for name in ["mme_model_requests_total", "mme_model_errors_total", "mme_model_refused_total"] :
          ["mmekit", name, "Endpoint", var.endpoint_name]
        ]
      },
      {
        title = "Queue and predict time (seconds)"
        stat  = "p99"
        metrics = [
          for name in ["mme_model_queue_seconds", "mme_model_predict_seconds"] :
          ["mmekit", name, "Endpoint", var.endpoint_name]
        ]
      },
      {
        title = "Loads, parks and wakes"
        stat  = "Sum"
        metrics = [
          for name in ["mme_model_loads_total", "mme_model_parks_total", "mme_model_wakes_total"] :
          ["mmekit", name, "Endpoint", var.endpoint_name]
        ]
      },
      {
        title   = "Memory of a model process (bytes)"
        stat    = "Maximum"
        metrics = [["mmekit", "mme_model_memory_bytes", "Endpoint", var.endpoint_name]]
      },
    ] : one if var.metrics != "none"],
    [for one in [
      {
        title   = "Requests of the 20 busiest models"
        stat    = "Sum"
        metrics = [[{ id = "requests", expression = "SORT(SEARCH('{mmekit,Endpoint,Model} MetricName=\"mme_model_requests_total\" Endpoint=\"${var.endpoint_name}\"', 'Sum', 60), SUM, DESC, 20)" }]]
      },
      {
        title   = "Errors of the 20 models with the most"
        stat    = "Sum"
        metrics = [[{ id = "errors", expression = "SORT(SEARCH('{mmekit,Endpoint,Model} MetricName=\"mme_model_errors_total\" Endpoint=\"${var.endpoint_name}\"', 'Sum', 60), SUM, DESC, 20)" }]]
      },
      {
        title   = "Predict time of the 20 slowest models (p99, seconds)"
        stat    = "p99"
        metrics = [[{ id = "predict", expression = "SORT(SEARCH('{mmekit,Endpoint,Model} MetricName=\"mme_model_predict_seconds\" Endpoint=\"${var.endpoint_name}\"', 'p99', 60), MAX, DESC, 20)" }]]
      },
      {
        title = "Drift: missing values, unseen categories, refused requests by column"
        stat  = "Sum"
        metrics = [
          for id, name in {
            missing = "mme_model_missing_values_total",
            unseen  = "mme_model_unseen_categories_total",
            refused = "mme_model_refused_columns_total",
          } :
          [{ id = id, expression = "SORT(SEARCH('{mmekit,Endpoint,Model,Column} MetricName=\"${name}\" Endpoint=\"${var.endpoint_name}\"', 'Sum', 300), SUM, DESC, 10)" }]
        ]
      },
    ] : one if var.metrics == "models"],
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.endpoint_name}-${each.key}"
  alarm_description   = each.value.text
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = local.dimensions
  statistic           = each.value.statistic == "p99" ? null : each.value.statistic
  extended_statistic  = each.value.statistic == "p99" ? "p99" : null
  period              = 300
  evaluation_periods  = each.value.periods
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.told
  ok_actions          = local.told
  tags                = var.tags
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.endpoint_name}-models"

  dashboard_body = jsonencode({
    widgets = [
      for number, graph in local.graphs : {
        type   = "metric"
        x      = 12 * (number % 2)
        y      = 6 * floor(number / 2)
        width  = 12
        height = 6
        properties = merge(
          {
            title   = graph.title
            region  = local.region
            stat    = graph.stat
            period  = 60
            metrics = graph.metrics
          },
          graph.title == "Cache hits (share of the calls)" ? { yAxis = { left = { min = 0, max = 1 } } } : {},
        )
      }
    ]
  })
}
