# The role of the endpoint: archives under the prefix, their layers, the image, logs, metrics.

locals {
  log_group = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws/sagemaker/Endpoints/${var.endpoint_name}"

  statements = concat(
    [
      {
        Sid      = "ReadArchives"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["${local.bucket_arn}/${var.model_prefix}/*"]
      },
      {
        # Without it, S3 answers 403 instead of 404 for a key that is not there.
        Sid       = "ListArchives"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = ["${var.model_prefix}/*"] } }
      },
      {
        Sid      = "LogIn"
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"] # the action knows no resources
      },
      {
        Sid      = "PullImage"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = ["arn:${local.partition}:ecr:${local.image.region}:${local.image.account}:repository/${local.image.repository}"]
      },
      {
        Sid    = "WriteLogs"
        Effect = "Allow"
        Action = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        # The group, and the streams in it; not the groups whose names begin alike.
        Resource = [local.log_group, "${local.log_group}:*"]
      },
      {
        Sid       = "PutMetrics"
        Effect    = "Allow"
        Action    = ["cloudwatch:PutMetricData"]
        Resource  = ["*"] # the action knows no resources; the condition narrows it
        Condition = { StringEquals = { "cloudwatch:namespace" = ["AWS/SageMaker", "/aws/sagemaker/Endpoints"] } }
      },
    ],
    [for one in [
      {
        Sid      = "ReadLayers"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["${local.bucket_arn}/${var.layer_prefix}/*"]
      },
      {
        Sid       = "ListLayers"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = ["${var.layer_prefix}/*"] } }
      },
    ] : one if var.layer_prefix != ""],
    [for one in [
      {
        Sid      = "DecryptArchives"
        Effect   = "Allow"
        Action   = ["kms:Decrypt"]
        Resource = [var.artifact_key_arn]
      },
    ] : one if var.artifact_key_arn != ""],
    [for one in [
      {
        Sid    = "UseSubnets"
        Effect = "Allow"
        Action = [
          "ec2:CreateNetworkInterface",
          "ec2:CreateNetworkInterfacePermission",
          "ec2:DeleteNetworkInterface",
          "ec2:DeleteNetworkInterfacePermission",
          "ec2:DescribeDhcpOptions",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSecurityGroups",
          "ec2:DescribeSubnets",
          "ec2:DescribeVpcs",
        ]
        Resource = ["*"] # what SageMaker's developer guide asks for; describing knows no resources
      },
    ] : one if length(var.subnet_ids) > 0],
  )
}

resource "aws_iam_role" "this" {
  # IAM knows no regions, and a name of it has 64 characters.
  name_prefix = "${substr(local.stem, 0, 20)}-"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "sagemaker.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name   = "endpoint"
  role   = aws_iam_role.this.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.statements })
}
