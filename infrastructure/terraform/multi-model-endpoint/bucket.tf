# The bucket, where none is given: closed, encrypted, refusing plain HTTP. And what is put into it.

locals {
  is_made = var.artifact_bucket == null ? 1 : 0
}

resource "aws_s3_bucket" "this" {
  count = local.is_made

  # The account and region make it unique in the world.
  bucket = var.bucket_name != null ? var.bucket_name : lower("${local.stem}-${local.account}-${local.region}")
  # Not unless that is wanted: models that others have put there are nowhere else.
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  count = local.is_made

  bucket                  = aws_s3_bucket.this[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  count = local.is_made

  bucket = aws_s3_bucket.this[0].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  count = local.is_made

  bucket = aws_s3_bucket.this[0].id

  rule {
    bucket_key_enabled = var.artifact_key_arn == "" ? null : true

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.artifact_key_arn == "" ? "AES256" : "aws:kms"
      kms_master_key_id = var.artifact_key_arn == "" ? null : var.artifact_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  count = local.is_made

  bucket = aws_s3_bucket.this[0].id

  rule {
    id     = "UnfinishedUploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  count = local.is_made

  bucket = aws_s3_bucket.this[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "RefusePlainHttp"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  # Two changes of who may read a bucket at once are refused.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_object" "archive" {
  for_each = var.archives == null ? toset([]) : fileset(var.archives, "*.tar.gz")

  bucket      = local.bucket
  key         = "${var.model_prefix}/${each.value}"
  source      = "${var.archives}/${each.value}"
  source_hash = filesha256("${var.archives}/${each.value}")
  tags        = var.tags

  depends_on = [aws_s3_bucket_server_side_encryption_configuration.this]
}

resource "aws_s3_object" "layer" {
  for_each = var.archives == null || var.layer_prefix == "" ? toset([]) : fileset("${var.archives}/layers", "*.tar.gz")

  bucket = local.bucket
  key    = "${var.layer_prefix}/${each.value}"
  # Its name is its content.
  source = "${var.archives}/layers/${each.value}"
  tags   = var.tags

  depends_on = [aws_s3_bucket_server_side_encryption_configuration.this]
}
