"""What one rehearses with: SageMaker on this machine, for unmodified boto3 and without Docker.

The extra ``local`` brings what it needs. The rooms: `server` is one container (SageMaker's
contract in front of DJL's Python engine), `containers` knows the others, `sagemaker` is SageMaker's
side of an endpoint, and `aws` the rest of AWS around it, on one port. `http` is what server and
endpoint stand on.
"""
