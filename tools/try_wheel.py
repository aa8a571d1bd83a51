"""Build wheel and sdist, and try the wheel as somebody does who has nothing else of mmekit.

In a fresh environment and a foreign folder: what a plain install brings and what it does without
the extras, a model from `mme init` to `mme invoke`, then a project from `mme new-project` to the
rehearsal of its workflow. All other versions are those of
requirements.lock, so that what others release does not fail it. Needs the package index.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
LOCK = ROOT / "requirements.lock"
UV = Path(sys.executable).with_name("uv")
OF_EXTRAS = ["httptools", "matplotlib", "moto", "prometheus_client", "uvloop"]

TRAIN = """
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

flowers = load_iris(as_frame=True)
model = LogisticRegression(max_iter=1000).fit(flowers.data.to_numpy(), flowers.target)
skops.io.dump(model, "iris.skops")
flowers.data.head(20).to_csv("iris.csv", index=False)
"""
CREATE = """
import boto3

s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
s3.create_bucket(Bucket="foreign")
s3.upload_file("iris.tar.gz", "foreign", "models/iris.tar.gz")
image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
container = {"Image": image, "Mode": "MultiModel", "ModelDataUrl": "s3://foreign/models/"}
role = "arn:aws:iam::123456789012:role/anybody"
sagemaker.create_model(ModelName="models", ExecutionRoleArn=role, PrimaryContainer=container)
variant = {
    "VariantName": "AllTraffic",
    "ModelName": "models",
    "InstanceType": "ml.m5.xlarge",
    "InitialInstanceCount": 1,
}
sagemaker.create_endpoint_config(EndpointConfigName="models", ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="models", EndpointConfigName="models")
sagemaker.get_waiter("endpoint_in_service").wait(
    EndpointName="models", WaiterConfig={"Delay": 1}
)
"""


def main() -> None:
    """Build, install and try; the first thing that is not as it should be ends it."""
    wheel = built()
    folder = Path(tempfile.mkdtemp(prefix="mmekit-wheel-"))
    try:
        trial = Trial(folder, wheel)
        trial.try_plain_install()
        trial.try_from_artefact_to_archive()
        trial.try_endpoint()
        trial.try_project()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say("the wheel does what README says")


def built() -> Path:
    """Return the wheel; what the sdist builds is the same, byte for byte."""
    say("building wheel and sdist")
    shutil.rmtree(DIST, ignore_errors=True)
    build = [str(UV), "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    run([*build, "--wheel", "--sdist", "--out-dir", str(DIST)], cwd=ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    again = DIST / "from-sdist"
    run([*build, "--wheel", str(sdist), "--out-dir", str(again)], cwd=ROOT)
    (second,) = again.glob("*.whl")
    if digest(second) != digest(wheel):
        sys.exit(f"wheel: {sdist.name} builds another wheel than the repository does")
    shutil.rmtree(again)
    say(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB), and the same from {sdist.name}")
    return wheel


class Trial:
    """An environment of its own, and a folder that knows nothing of the repository."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.wheel = wheel
        self.venv = folder / "venv"
        self.work = folder / "elsewhere"
        self.work.mkdir()
        run([sys.executable, "-m", "venv", "--without-pip", str(self.venv)])
        # As of a newcomer: nothing of this repository, of AWS or of mmekit is set.
        ours = ("AWS_", "MME_", "MMEKIT_", "PYTHONPATH", "VIRTUAL_ENV", "MAKE", "MFLAGS")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        }
        self.environment["PATH"] = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def try_plain_install(self) -> None:
        """See what `pip install mmekit` brings, and what it says of what it does not."""
        self.install(str(self.wheel))
        asked = (
            f"from importlib.util import find_spec; print([m for m in {OF_EXTRAS} if find_spec(m)])"
        )
        expect(self.run("python", "-c", asked).strip() == "[]", "an extra's library is in the base")
        self.run("mme", "--version")
        say("a plain install brings nothing that only rehearses or measures")
        for command in (["mme", "up", "--", "true"], ["python", "-m", "mmekit_local.server"]):
            said = self.run(*command, succeeds=False)
            expect("pip install 'mmekit[local]'" in said, f"no word of the extra in: {said}")
            expect("Traceback" not in said, said)
        say("without the extra, `mme up` and the server say which one they need")

    def try_from_artefact_to_archive(self) -> None:
        """Train a model, and pack it with what one ships alone."""
        self.install("scikit-learn", "pandas", "skops")
        self.run("python", "-c", TRAIN)
        self.run("mme", "init", "iris", "--artifact", "iris.skops", "--example", "iris.csv")
        self.run("mme", "check", "model_packages/iris", "--artifacts", "build/artifacts/iris")
        package = ["model_packages/iris", "--artifacts", "build/artifacts/iris"]
        self.run("mme", "pack", *package, "-o", "iris.tar.gz")
        self.run("mme", "check", "iris.tar.gz")
        say("mme init, check and pack work on a model that was trained elsewhere")
        (self.work / "model_packages/iris/requirements.txt").write_text("cycler==0.12.1\n")
        self.run("mme", "pack", *package, "-o", "thin/iris.tar.gz", "--thin")
        if shutil.which("uv", path=self.environment["PATH"]) is None:
            layers = ["mme", "pack", *package, "-o", "layers.tar.gz", "--layers"]
            said = self.run(*layers, succeeds=False)
            expect("pip install 'mmekit[layers]'" in said, f"no word of the extra in: {said}")
        self.install(f"mmekit[layers] @ {self.wheel.as_uri()}")
        said = self.run("mme", "pack", *package, "-o", "layers.tar.gz", "--layers")
        expect("(libraries, " in said, f"no layer of libraries: {said}")
        say("mme pack --thin and --layers make layers")

    def try_endpoint(self) -> None:
        """Serve it by unmodified boto3, and ask it as a user does."""
        self.install(f"mmekit[local] @ {self.wheel.as_uri()}")
        (self.work / "create.py").write_text(CREATE)
        (self.work / "flowers.json").write_text('{"instances": [[5.1, 3.5, 1.4, 0.2]]}')
        ask = "mme invoke models --target-model iris.tar.gz --data flowers.json"
        session = f"python create.py && {ask}"
        answer = json.loads(self.run("mme", "up", "--port", "0", "--", "sh", "-c", session))
        expect(answer == {"predictions": [0]}, f"the model answered {answer}")
        say("mme up serves it, and mme invoke has its answer")

    def try_project(self) -> None:
        """Make a project, install what it asks for, and run what its workflow runs."""
        import yaml

        self.run("mme", "new-project", "churn")
        self.work /= "churn"
        self.install("-r", "requirements.txt")
        # Where the workflow's `mme up` listens: somebody may have one running.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.environment["MME_LOCAL_URL"] = f"http://127.0.0.1:{free.getsockname()[1]}"
        workflow = yaml.safe_load((self.work / ".github/workflows/models.yml").read_text())
        for step in workflow["jobs"]["rehearse"]["steps"]:
            if "run" in step and "pip install" not in step["run"]:
                self.run("bash", "-e", "-o", "pipefail", "-c", step["run"])
        say("mme new-project makes a project whose workflow trains, packs and rehearses")

    def install(self, *requirements: str) -> None:
        """Install with the locked versions of all else."""
        say(f"installing {', '.join(each.rpartition('/')[2] for each in requirements)}")
        command = [str(UV), "pip", "install", "--quiet", "--python", str(self.venv / "bin/python")]
        run([*command, "--constraint", str(LOCK), *requirements], cwd=self.work)

    def run(self, *command: str, succeeds: bool = True) -> str:
        """Run a command of the environment in the foreign folder."""
        return run(list(command), cwd=self.work, env=self.environment, succeeds=succeeds)


def run(
    command: list[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    succeeds: bool = True,
) -> str:
    """Return what a command prints, or says as it fails where it should; end if it does not."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if (done.returncode == 0) != succeeds:
        sys.exit(
            f"wheel: {' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout if succeeds else done.stdout + done.stderr


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    """End with what is not as it should be."""
    if not holds:
        sys.exit(f"wheel: {otherwise}")


def say(what: str) -> None:
    """Print one line of progress."""
    print(f"wheel: {what}", flush=True)


if __name__ == "__main__":
    main()
