"""A SageMaker multi-model endpoint as a construct of the AWS CDK, and a stack that uses it."""

from multi_model_endpoint.choices import Alarms, ChoiceError, Instances
from multi_model_endpoint.endpoint import MultiModelEndpoint
from multi_model_endpoint.image import Image
from multi_model_endpoint.stack import MultiModelEndpointStack

__all__ = [
    "Alarms",
    "ChoiceError",
    "Image",
    "Instances",
    "MultiModelEndpoint",
    "MultiModelEndpointStack",
]
