"""What tests have instead of Docker: it writes down what it is told, and runs a known server.

DOCKER_RECORD names the file, a line of JSON for each call. ``run`` becomes the echo container with
the variables of ``--env``; ``version`` fails when DOCKER_DOWN is set, and ``ps`` knows of nothing.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def values(arguments, option):
    return [arguments[i + 1] for i, one in enumerate(arguments) if one == option]


def main():
    arguments = sys.argv[1:]
    read = sys.stdin.read() if "--password-stdin" in arguments else ""
    attested = os.environ.get("BUILDX_NO_DEFAULT_ATTESTATIONS") != "1"
    with Path(os.environ["DOCKER_RECORD"]).open("a") as record:
        record.write(json.dumps({"words": arguments, "read": read, "attested": attested}) + "\n")
    if arguments[0] == "version":
        if "DOCKER_DOWN" in os.environ:
            sys.exit("Cannot connect to the Docker daemon.")
        sys.stdout.write("28.0.0\n")
    if arguments[0] == "run":
        host, port, _ = values(arguments, "--publish")[0].split(":")
        inside = dict(pair.split("=", 1) for pair in values(arguments, "--env"))
        # There is no inside: the port outside is the only one.
        inside |= {"MME_BIND_HOST": host, "SM_MODEL_DIR": "/opt/ml/model", "ECHO_PORT": port}
        os.execve(sys.executable, [sys.executable, str(HERE / "echo_container.py")], inside)  # noqa: S606


if __name__ == "__main__":
    main()
