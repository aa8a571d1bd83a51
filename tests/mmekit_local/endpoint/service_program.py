"""The endpoint service as `mme up` runs it, with a chosen container."""

import argparse
import pathlib
import sys

from mmekit_local.aws import run
from mmekit_local.sagemaker import CommandLauncher, EndpointLimits, EndpointOptions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--container", choices=["small", "embedded", "djl"], default="small")
    parser.add_argument("--limits", nargs="*", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--state", type=pathlib.Path)
    parser.add_argument("--state-seconds", type=float, default=0.0)
    parser.add_argument("--autoscaling-minute", type=float, default=60.0)
    options = parser.parse_args()
    limits = (item.partition("=") for item in options.limits)
    small = pathlib.Path(__file__).with_name("small_container.py")
    launcher = CommandLauncher([sys.executable, str(small)])
    run(
        EndpointOptions(
            port=options.port,
            server="embedded" if options.container == "small" else options.container,
            state=options.state,
            state_seconds=options.state_seconds,
            autoscaling_minute=options.autoscaling_minute,
            limits=EndpointLimits(**{name: float(value) for name, _, value in limits}),
        ),
        launcher=launcher if options.container == "small" else None,
    )


if __name__ == "__main__":
    main()
