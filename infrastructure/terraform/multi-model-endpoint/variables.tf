# The names are those of ../../cloudformation/multi-model-endpoint.yaml, in Terraform's spelling;
# empty or null is none.

variable "endpoint_name" {
  type        = string
  default     = "multi-model"
  description = "The endpoint's. Other resources' names begin with it."

  validation {
    condition     = can(regex("^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$", var.endpoint_name))
    error_message = "endpoint_name: 1 to 63 letters, digits and hyphens, no hyphen at either end."
  }
}

# Models

variable "artifact_bucket" {
  type        = string
  default     = null
  description = "A bucket with the archives that is there already; null makes one."

  validation {
    condition     = var.artifact_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.artifact_bucket))
    error_message = "artifact_bucket: the name of a bucket, or null."
  }
}

variable "bucket_name" {
  type        = string
  default     = null
  description = "Of the bucket that is made; null names it after endpoint, account and region. Another name is another bucket."

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name: 3 to 63 lower-case letters, digits, hyphens and dots, or null."
  }
}

variable "force_destroy" {
  type        = bool
  default     = false
  description = "Whether a bucket that was made here goes with every object in it, those that Terraform has not put there, too; otherwise it stays while there are any."
}

variable "model_prefix" {
  type        = string
  default     = "models"
  description = "The folder of the archives; target models are keys below it, such as name.tar.gz."

  validation {
    condition     = can(regex("^[a-zA-Z0-9._-]+(/[a-zA-Z0-9._-]+)*$", var.model_prefix))
    error_message = "model_prefix: a path in the bucket, without a slash at either end."
  }
}

variable "layer_prefix" {
  type        = string
  default     = ""
  description = "The folder of thin archives' layers, beside that of the archives; empty for none."

  validation {
    condition     = can(regex("^([a-zA-Z0-9._-]+(/[a-zA-Z0-9._-]+)*)?$", var.layer_prefix))
    error_message = "layer_prefix: a path in the bucket, without a slash at either end, or nothing."
  }

  validation {
    # Below the prefix of the archives they would be taken for models.
    condition     = var.layer_prefix != var.model_prefix && !startswith(var.layer_prefix, "${var.model_prefix}/")
    error_message = "layer_prefix: beside model_prefix, not in it, where layers would be taken for models."
  }
}

variable "archives" {
  type        = string
  default     = null
  description = "A folder whose *.tar.gz are uploaded, and with layer_prefix those in its folder layers/; null uploads nothing."

  validation {
    condition     = var.archives == null || length(fileset(coalesce(var.archives, "."), "*.tar.gz")) > 0
    error_message = "archives: a folder with archives (*.tar.gz) in it, or null."
  }
}

variable "image_uri" {
  type        = string
  description = "The container's image in Amazon ECR; the account differs from region to region."

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[a-z0-9/_.-]+(:[\\w.-]+|@sha256:[a-f0-9]{64})$", var.image_uri))
    error_message = "image_uri: ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG (or @sha256:DIGEST)."
  }
}

variable "model_cache_setting" {
  type        = string
  default     = "Enabled"
  description = "Disabled unloads every model after each call; for many models of few calls."

  validation {
    condition     = contains(["Enabled", "Disabled"], var.model_cache_setting)
    error_message = "model_cache_setting: Enabled or Disabled."
  }
}

variable "environment" {
  type        = map(string)
  default     = {}
  description = "Variables of the container; `mme environment` prints those that DJL Serving wants."
}

variable "metrics" {
  type        = string
  default     = "none"
  description = "Metrics of models in CloudWatch: none, endpoint (summed), or models (each model is metrics of its own, which cost)."

  validation {
    condition     = contains(["none", "endpoint", "models"], var.metrics)
    error_message = "metrics: none, endpoint or models."
  }
}

# Instances

variable "instance_type" {
  type        = string
  default     = "ml.m6i.large"
  description = "An instance type of SageMaker hosting."

  validation {
    condition     = can(regex("^ml\\.[a-z0-9-]+\\.[a-z0-9]+$", var.instance_type))
    error_message = "instance_type: an instance type of SageMaker hosting, such as ml.m6i.large."
  }
}

variable "min_instances" {
  type        = number
  default     = 1
  description = "How many there are at first, and at least."

  validation {
    condition     = var.min_instances >= 1 && var.min_instances <= 100 && floor(var.min_instances) == var.min_instances
    error_message = "min_instances: a whole number from 1 to 100."
  }
}

variable "max_instances" {
  type        = number
  default     = 2
  description = "How many scaling makes of them at most."

  validation {
    condition     = var.max_instances >= 1 && var.max_instances <= 100 && floor(var.max_instances) == var.max_instances
    error_message = "max_instances: a whole number from 1 to 100."
  }
}

variable "invocations_per_instance" {
  type        = number
  default     = 600
  description = "Invocations a minute and instance that scaling aims at."

  validation {
    condition     = var.invocations_per_instance >= 1 && var.invocations_per_instance <= 1000000
    error_message = "invocations_per_instance: 1 to 1000000."
  }
}

variable "volume_gb" {
  type        = number
  default     = null
  description = "GiB of an instance's disk; null for what SageMaker gives the type."

  validation {
    condition     = var.volume_gb == null || (coalesce(var.volume_gb, 1) >= 1 && coalesce(var.volume_gb, 1) <= 512)
    error_message = "volume_gb: 1 to 512, or null."
  }
}

# Updates

variable "rollout" {
  type = object({
    all_at_once      = optional(object({ wait_minutes = optional(number, 10) }))
    canary           = optional(object({ percent = number, wait_minutes = optional(number, 10) }))
    linear           = optional(object({ percent = number, wait_minutes = optional(number, 10) }))
    keep_old_minutes = optional(number, 0)
  })
  default     = null
  description = "How an update goes, as in mme.yaml: all_at_once, canary or linear, one of them; a percent of the instances takes the traffic first, and the alarms are watched for wait_minutes. They take it back. Null: all at once, which no alarm takes back."

  validation {
    condition = var.rollout == null || 1 == length([
      for kind in [try(var.rollout.all_at_once, null), try(var.rollout.canary, null), try(var.rollout.linear, null)] : true if kind != null
    ])
    error_message = "rollout: all_at_once, canary or linear, one of them."
  }

  validation {
    condition     = try(var.rollout.canary.percent, 1) >= 1 && try(var.rollout.canary.percent, 1) <= 50
    error_message = "rollout.canary.percent: 1 to 50."
  }

  validation {
    condition     = try(var.rollout.linear.percent, 10) >= 10 && try(var.rollout.linear.percent, 10) <= 50
    error_message = "rollout.linear.percent: 10 to 50."
  }

  validation {
    condition = alltrue([
      for minutes in [
        try(var.rollout.all_at_once.wait_minutes, 0), try(var.rollout.canary.wait_minutes, 0),
        try(var.rollout.linear.wait_minutes, 0), try(var.rollout.keep_old_minutes, 0),
      ] : minutes >= 0 && minutes <= 60
    ])
    error_message = "rollout: wait_minutes and keep_old_minutes are 0 to 60."
  }
}

# Alarms

variable "alarm_topic_arn" {
  type        = string
  default     = ""
  description = "The SNS topic that alarms tell; empty for none."

  validation {
    condition     = can(regex("^(arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[\\w.-]+)?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn: the ARN of an SNS topic, or nothing."
  }
}

variable "max_errors" {
  type        = number
  default     = 5
  description = "Answers of the kind 5xx in five minutes that are an alarm."

  validation {
    condition     = var.max_errors >= 1
    error_message = "max_errors: at least 1."
  }
}

variable "max_latency_milliseconds" {
  type        = number
  default     = 1000
  description = "The latency of the slowest hundredth of the calls that is an alarm."

  validation {
    condition     = var.max_latency_milliseconds >= 1 && var.max_latency_milliseconds <= 60000
    error_message = "max_latency_milliseconds: 1 to 60000."
  }
}

variable "max_memory_percent" {
  type        = number
  default     = 85
  description = "How full the memory of an instance is that is an alarm."

  validation {
    condition     = var.max_memory_percent >= 1 && var.max_memory_percent <= 100
    error_message = "max_memory_percent: 1 to 100."
  }
}

variable "max_disk_percent" {
  type        = number
  default     = 85
  description = "How full the disk of an instance is that is an alarm."

  validation {
    condition     = var.max_disk_percent >= 1 && var.max_disk_percent <= 100
    error_message = "max_disk_percent: 1 to 100."
  }
}

# Network and keys

variable "subnet_ids" {
  type        = list(string)
  default     = []
  description = "Private subnets for the containers; empty for none."
}

variable "security_group_ids" {
  type        = list(string)
  default     = []
  description = "Needed with subnet_ids."
}

variable "artifact_key_arn" {
  type        = string
  default     = ""
  description = "The KMS key of the bucket, when it has one of yours; a bucket that is made here is encrypted with it."

  validation {
    condition     = can(regex("^(arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[a-zA-Z0-9-]+)?$", var.artifact_key_arn))
    error_message = "artifact_key_arn: the ARN of a KMS key, or nothing."
  }
}

variable "volume_key_arn" {
  type        = string
  default     = ""
  description = "The KMS key of the instances' volumes; empty for AWS's own. Instance types with NVMe disks of their own take none."

  validation {
    condition     = can(regex("^(arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[a-zA-Z0-9-]+)?$", var.volume_key_arn))
    error_message = "volume_key_arn: the ARN of a KMS key, or nothing."
  }
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of everything that is made."
}
