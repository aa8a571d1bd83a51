"""SageMaker's control plane: what it refuses, its records in moto, and the endpoints that run."""
