"""`mme bench` as a process, on an endpoint and on a container."""

import ast
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from xml.etree import ElementTree as ET

import boto3
import pytest
from botocore.config import Config

from mmekit.errors import MissingExtraError
from mmekit_bench.cli.bench import _keep
from tests.mme_command import run_mme
from tests.mmekit_local.endpoint.service_process import ServiceProcess

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
TARGETS = ("a.tar.gz", "team/b.tar.gz")
# An archive of the small container's: model.json, which says nothing.
MODEL = "import sys, tarfile; tarfile.open(sys.argv[1], 'w:gz').add(sys.argv[2], 'model.json')"


def a_client(service, url):
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(s3={"addressing_style": "path"}),
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def endpoint_url(tmp_path_factory):
    """A local endpoint `echo` with two models; its containers echo."""
    folder = tmp_path_factory.mktemp("service")
    process = ServiceProcess([], folder / "log", TMPDIR=str(folder))

    def announced():
        return re.search(r"listen on (http://[\d.:]+)", (folder / "log").read_text())

    try:
        wait_until(announced, process)
        url = announced()[1]
        create_endpoint(url, folder)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def create_endpoint(url, folder):
    (folder / "model.json").write_text("{}")
    archive = folder / "model.tar.gz"
    subprocess.run(
        [sys.executable, "-c", MODEL, str(archive), str(folder / "model.json")], check=True
    )
    s3, sagemaker = a_client("s3", url), a_client("sagemaker", url)
    s3.create_bucket(Bucket="bench")
    for key in (*TARGETS, "readme.txt"):
        s3.put_object(Bucket="bench", Key=f"models/{key}", Body=archive.read_bytes())
    container = {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://bench/models/"}
    role = "arn:aws:iam::123456789012:role/bench"
    sagemaker.create_model(ModelName="echo", ExecutionRoleArn=role, PrimaryContainer=container)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": "echo",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName="echo", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="echo", EndpointConfigName="echo")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="echo", WaiterConfig={"Delay": 0.05, "MaxAttempts": 600}
    )


@pytest.fixture
def command(tmp_path):
    """A function that returns the arguments of Popen for `mme bench`."""
    (tmp_path / "request.json").write_text('{"instances": [[1.0]]}')

    def make(*arguments, **variables):
        return {
            "args": [sys.executable, "-m", "mmekit.cli", "bench", *map(str, arguments)],
            "cwd": tmp_path,
            "env": {**os.environ, "COLUMNS": "200", **variables},
        }

    return make


@pytest.fixture
def bench(command):
    def run(*arguments, **variables):
        options = command(*arguments, **variables)
        words, folder, environment = options["args"][3:], options["cwd"], options["env"]
        return run_mme(*words, folder=folder, environment=environment)

    return run


@pytest.fixture
def on_the_endpoint(bench, endpoint_url):
    def run(*arguments, endpoint="echo", **variables):
        data = ("--data", "request.json", "--requests", "40", "-c", "2")
        variables |= {"MME_LOCAL_URL": endpoint_url}
        return bench("--endpoint", endpoint, *data, *arguments, **variables)

    return run


@pytest.mark.parametrize("client", ["raw", "boto3"])
def test_all_models_under_an_endpoints_prefix_are_asked(on_the_endpoint, tmp_path, client):
    finished = on_the_endpoint("--client", client, "-o", "out/found.json")
    assert finished.returncode == 0, finished.stdout + finished.stderr

    found = json.loads((tmp_path / "out" / "found.json").read_text())
    recording = found["recording"]
    assert [one["target"] for one in recording["targets"]] == list(TARGETS)
    assert sum(one["answered"] for one in recording["targets"]) == 40
    assert recording["errors"] == {}
    assert found["plan"]["seed"] == 0
    assert found["machine"]["cores"] >= 1
    assert {"python", "mmekit", "boto3", "numpy"} <= set(found["versions"])
    for shown in ("first calls", "later calls", *TARGETS, "99.99%", "client:"):
        assert shown in finished.stdout


def test_errors_have_the_same_names_whoever_calls_and_exit_1(on_the_endpoint):
    for options in (("--rate", "400"), ("--client", "boto3")):
        finished = on_the_endpoint("--targets", "none.tar.gz", *options)
        assert finished.returncode == 1
        (line,) = [line for line in finished.stdout.splitlines() if "Error" in line]
        assert line.split() == ["40", "400", "ValidationError"]


def test_an_endpoint_that_is_not_there_is_told(on_the_endpoint):
    finished = on_the_endpoint(endpoint="other")
    assert finished.returncode == 1
    assert "other" in finished.stderr
    assert "--targets" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_result_is_kept_as_json_csv_and_picture(bench, server, tmp_path):
    pytest.importorskip("matplotlib")
    url = f"{server.url}/models/plain/invoke"
    arguments = ("--data", "request.json", "--duration", "2", "-o", "kept.json")
    finished = bench("--url", url, *arguments)
    assert finished.returncode == 0, finished.stderr

    series = list(csv.DictReader((tmp_path / "kept.csv").read_text().splitlines()))
    kept = json.loads((tmp_path / "kept.json").read_text())["recording"]["series"]
    assert [int(row["answered"]) for row in series] == [one["answered"] for one in kept]
    assert len(series) == 2
    ET.parse(tmp_path / "kept.svg")  # noqa: S314 - our own file
    assert "kept.json, kept.csv, kept.svg" in finished.stdout


def test_ctrl_c_keeps_what_was_found_until_then(command, server, tmp_path):
    url = f"{server.url}/models/plain/invoke"
    options = command(
        "--url", url, "--data", "request.json", "--duration", "600", "-o", "found.json"
    )
    with subprocess.Popen(**options, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: server.seen()["count"].get("plain", 0) > 100, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "Ctrl-C" in output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["interrupted"]
    assert found["recording"]["answered"] > 100
    assert found["recording"]["seconds"] < 600


def test_a_packages_sample_request_is_sent_with_its_content_type(bench, server, root):
    package = root / "model_packages" / "extra_trees_classifier"
    url = f"{server.url}/models/plain/invoke"
    finished = bench("--url", url, "--package", package, "--requests", 3)
    assert finished.returncode == 0, finished.stderr
    seen = server.seen()["heads"]["plain"]
    assert seen["body"] == (package / "sample_request.json").read_text()
    assert seen["headers"]["content-type"] == "application/json"


def test_figures_are_kept_where_no_picture_can_be_drawn(a_result, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        _keep(a_result(5.0), tmp_path / "kept.json")
    assert (tmp_path / "kept.json").exists()
    assert capsys.readouterr().out == f"{tmp_path}: kept.json, kept.csv\n"


# Not by importing it: locust exchanges Python's sockets and threads for gevent's.
@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed")
def test_callers_of_locust_find_the_models_and_print_the_percentile_table(
    root, endpoint_url, command
):
    options = command(MME_LOCAL_URL=endpoint_url)
    options["args"] = [sys.executable, "-m", "locust", "HotModel", "--headless", "--only-summary"]
    options["args"] += ["-f", str(root / "infrastructure" / "locust" / "locustfile.py")]
    options["args"] += ["--users=2", "--run-time=2s", "--endpoint=echo", "--data=request.json"]
    finished = subprocess.run(**options, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    table = finished.stderr.partition("Response time percentiles")[2]
    assert "sagemaker_client_invoke_endpoint" in table, finished.stderr
    assert "99.99%" in table


def test_what_the_scenario_for_locust_imports_of_us_is_there(root):
    tree = ast.parse((root / "infrastructure" / "locust" / "locustfile.py").read_text())
    ours = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mmekit")
        for alias in node.names
    ]
    assert ours
    for module, name in ours:
        assert hasattr(import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--url", "http://127.0.0.1:1/m"), "--data"),
        (("--data", "request.json"), "--endpoint"),
        (("--url", "http://h/m", "--data", "request.json", "--rate=1", "--check-with=wrk"), "wrk"),
        (("--url", "http://h/m", "--data", "request.json", "-o", "x.csv"), ".json"),
    ],
)
def test_options_that_make_no_sense_are_explained(bench, arguments, hint):
    finished = bench(*arguments)
    assert finished.returncode == 2
    assert hint in finished.stderr


def test_the_help_has_an_example(bench):
    assert "mme bench --endpoint" in bench("--help").stdout.split("Example")[1]
    assert "mme bench compare before.json" in bench("compare", "--help").stdout.split("Example")[1]


def test_two_results_are_shown_side_by_side(bench, a_result, tmp_path):
    (tmp_path / "quick.json").write_bytes(a_result(5, rate=200).to_json())
    (tmp_path / "slow.json").write_bytes(a_result(60, rate=50, target="other").to_json())
    finished = bench("compare", "quick.json", "slow.json")
    assert finished.returncode == 1, finished.stderr
    line = next(line for line in finished.stdout.splitlines() if "requests/s" in line)
    assert line.split()[-2:] == ["0.24", "worse"]
    (note,) = [line for line in finished.stdout.splitlines() if "targets" in line]
    assert note == "not the same: targets: m / other"


def test_a_comparison_for_programs_is_json_alone(bench, a_result, tmp_path):
    (tmp_path / "a.json").write_bytes(a_result(5).to_json())
    (tmp_path / "b.json").write_bytes(a_result(6).to_json())
    finished = bench("compare", "a.json", "b.json", "--tolerance", "50", "--json")
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["worse"] == []
    assert found["judged"]
    assert {row["name"]: row["verdict"] for row in found["rows"]}["p50"] == "worse"


def test_a_comparison_fits_80_columns_with_long_names(bench, a_result, tmp_path):
    names = [f"before-the-change-of-{'x' * 40}{number}.json" for number in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(a_result(5).to_json())
    finished = bench("compare", *names, COLUMNS="80")
    assert finished.returncode == 0
    assert max(map(len, finished.stdout.splitlines())) <= 80
    assert f"first: {names[0].removesuffix('.json')}" in finished.stdout.splitlines()


def test_a_load_for_programs_is_json_alone_and_its_progress_is_not(bench, server):
    url = f"{server.url}/models/plain/invoke"
    finished = bench("--url", url, "--data", "request.json", "--duration", "1.5", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["recording"]["answered"] > 0
    assert re.search(r"\d of 1.5 s, 1 under way", finished.stderr)


def test_a_load_on_models_with_long_names_fits_80_columns(on_the_endpoint):
    name = f"shops/{'region-' * 8}1.tar.gz"
    finished = on_the_endpoint("--targets", f"a.tar.gz,{name}", COLUMNS="80")
    lines = finished.stdout.splitlines()
    (row,) = [line for line in lines if line.startswith(name)]
    assert re.fullmatch(r"\S+ +0 +\d+ +- +- +-", row)
    wide = {line.split()[0] for line in lines if len(line) > 80}
    assert wide <= {"target", "a.tar.gz", name}, wide


def test_what_is_no_result_is_said(bench):
    finished = bench("compare", "request.json", "request.json")
    assert finished.returncode == 1
    assert "no result of mme bench" in finished.stderr
    assert "remedy" in finished.stderr
