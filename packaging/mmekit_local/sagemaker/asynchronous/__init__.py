"""Asynchronous inference: requests wait in a queue, answers go to S3, topics are told.

Sources: AWS's "Asynchronous inference" in the SageMaker developer guide and the pages below it
("Check prediction results", "Alarms and logs for tracking metrics from asynchronous endpoints");
the API reference's pages of InvokeEndpointAsync and AsyncInferenceConfig.
"""

from mmekit_local.sagemaker.asynchronous.inference import AsyncInference

__all__ = ["AsyncInference"]
