# The archives that `make demo` has built, on one instance:
#
#   terraform init
#   terraform apply -var region=eu-central-1

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

variable "region" {
  type        = string
  description = "Such as eu-central-1. The image's registry has another account in some regions."
}

variable "archives" {
  type        = string
  default     = "../../../../build/archives"
  description = "The folder with the archives."
}

provider "aws" {
  region = var.region
}

module "models" {
  source = "../"

  endpoint_name = "multi-model-terraform"
  archives      = var.archives
  layer_prefix  = "models-layers"
  image_uri     = "763104351884.dkr.ecr.${var.region}.amazonaws.com/djl-inference:0.36.0-cpu-full"
  metrics       = "endpoint"

  # With one instance there is no part of them to go first.
  rollout = {
    all_at_once = { wait_minutes = 5 }
  }
}

output "endpoint_name" {
  value = module.models.endpoint_name
}

output "model_data_url" {
  value = module.models.model_data_url
}
