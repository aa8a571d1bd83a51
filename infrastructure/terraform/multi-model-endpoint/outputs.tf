output "endpoint_name" {
  value = aws_sagemaker_endpoint.this.name
}

output "bucket_name" {
  value = local.bucket
}

output "model_data_url" {
  description = "The target models are joined with it, literally."
  value       = local.model_data_url
}

output "layers_url" {
  description = "Where `mme layers push --to` puts layers; null without layer_prefix."
  value       = local.layers_url
}

output "role_arn" {
  value = aws_iam_role.this.arn
}

output "dashboard_name" {
  value = aws_cloudwatch_dashboard.this.dashboard_name
}

output "alarm_names" {
  value = [for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name]
}
