"""The app that `cdk` runs: one stack, held against AWS's own rules of good practice."""

# ruff: noqa: INP001 - a program, not a package

import sys

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from multi_model_endpoint import ChoiceError, MultiModelEndpointStack

app = cdk.App()
try:
    MultiModelEndpointStack(app, "MultiModelEndpoint")
except ChoiceError as error:
    sys.exit(str(error))
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
app.synth()
