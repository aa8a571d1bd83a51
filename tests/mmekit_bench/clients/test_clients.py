"""`mme clients`: N clients at once."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from datetime import datetime

import pytest
from typer.testing import CliRunner

import mmekit_bench.clients
from mmekit.cli import app
from mmekit.errors import EndpointError
from mmekit.settings import Settings
from mmekit_bench.clients import CallRequest, EndpointCall, call_together, executions
from mmekit_local.ports import free_port
from tests.mmekit_bench.clients.conftest import read_table

pytestmark = pytest.mark.timeout(600)

COLUMNS = [
    "execution_number",
    "client_id",
    "status_response",
    "body_response",
    "elapsed_time",
    "current_date",
]


def outcomes(rows):
    return Counter(
        "throttled" if "ThrottlingException" in row["body_response"] else row["status_response"]
        for row in rows
    )


def test_the_public_face():
    assert sorted(mmekit_bench.clients.__all__) == [
        "Call",
        "CallRequest",
        "CallResult",
        "EndpointCall",
        "Execution",
        "ExecutionSummary",
        "ExecutionTable",
        "LambdaCall",
        "PERCENTILES",
        "call_together",
        "summary_of",
    ]


def test_of_160_clients_without_retries_150_are_answered_and_10_throttled(create_endpoint, start):
    create_endpoint("wide", 150)
    run = start("call-sagemaker", "--endpoint", "wide", "-n", "160")
    run.wait_for_rows(160, 10)
    run.release()
    code, out, _ = run.end()
    assert code == 0
    (path,) = run.output.glob("sagemaker_execution_*_160.csv")
    rows = read_table(path)
    assert outcomes(rows) == {"200": 150, "throttled": 10}
    assert list(rows[0]) == COLUMNS
    assert sorted(int(row["execution_number"]) for row in rows) == list(range(1, 161))
    assert len({row["client_id"] for row in rows}) == 160
    refused = next(row for row in rows if row["status_response"] == "400")
    assert json.loads(refused["body_response"]) == {
        "errorType": "ThrottlingException",
        "errorMessage": "An error occurred (ThrottlingException) when calling the InvokeEndpoint "
        "operation (reached max retries: 0): Rate exceeded",
    }
    assert float(refused["elapsed_time"]) >= 0
    assert datetime.fromisoformat(refused["current_date"]).tzinfo is not None
    assert re.search(r"160 +150 +10 +0 ", out)
    (picture,) = run.output.glob("sagemaker_execution_*.svg")
    assert "clients at once" in picture.read_text()


@pytest.mark.thorough
def test_with_retries_all_160_are_answered(create_endpoint, start, throttled):
    create_endpoint("patient", 150)
    run = start("call-sagemaker", "--endpoint", "patient", "-n", "160", "--max-attempts", "100")
    throttled("patient", 10)
    run.release()
    code, out, _ = run.end()
    assert code == 0
    assert outcomes(run.rows(160)) == {"200": 160}
    retries = int(re.search(r"160 +160 +0 +0 +(\d+) ", out)[1])
    assert retries >= 10


def test_through_a_function_the_surplus_is_throttled_in_lambdas_shape(
    create_endpoint, create_function, start
):
    create_endpoint("narrow", 5)
    function = create_function("calls-narrow", ENDPOINT_NAME="narrow")
    run = start("call-lambda", "--function", function, "-n", "8", "--max-attempts", "0")
    run.wait_for_rows(8, 3)
    run.release()
    assert run.end()[0] == 0
    (path,) = run.output.glob("lambda_execution_*_8.csv")
    rows = read_table(path)
    assert outcomes(rows) == {"200": 5, "throttled": 3}
    # A function that failed is an invocation that succeeded.
    assert {row["status_response"] for row in rows} == {"200"}
    refused = next(row for row in rows if "ThrottlingException" in row["body_response"])
    error = json.loads(refused["body_response"])
    assert error["errorType"] == "ClientError"
    assert error["errorMessage"].startswith("An error occurred (ThrottlingException) when calling")
    assert error["stackTrace"][0].startswith('  File "/var/task/app.py", line ')


@pytest.mark.thorough
def test_a_function_that_tries_again_has_all_answered_for_one_number_after_the_other(
    create_endpoint, create_function, start, throttled
):
    create_endpoint("tight", 2)
    function = create_function("calls-tight")
    run = start(
        *("call-lambda", "--function", function, "--endpoint", "tight", "--clients", "3,2,3"),
        *("--max-attempts", "100", "--retry-mode", "standard"),
    )
    throttled("tight", 1)
    run.release()
    code, out, _ = run.end()
    assert code == 0
    assert outcomes(run.rows(3)) == {"200": 3}
    assert outcomes(run.rows(2)) == {"200": 2}
    assert sum(json.loads(row["body_response"])["retries"] for row in run.rows(3)) >= 1
    assert len(list(run.output.glob("*.csv"))) == 2
    assert len(list(run.output.glob("*.svg"))) == 1
    assert re.search(r"3 +3 +0 +0 +[1-9]", out)


@pytest.mark.thorough
def test_an_interrupt_keeps_whole_rows_of_what_was_answered(create_endpoint, start):
    create_endpoint("interrupted", 2)
    run = start("call-sagemaker", "--endpoint", "interrupted", "-n", "6,7")
    run.wait_for_rows(6, 4)
    run.process.send_signal(signal.SIGINT)
    code, out, err = run.end()
    run.release()
    assert code == 130
    assert "interrupted; the responses so far are kept." in err
    assert "4 of 6 clients" in out
    (path,) = run.output.glob("*.csv")
    rows = read_table(path)
    assert path.read_text().endswith("\n")
    assert outcomes(rows) == {"throttled": 4}
    assert len(list(run.output.glob("*.svg"))) == 1


@pytest.mark.thorough
def test_a_function_that_times_out_is_told_with_its_remedy_and_the_next_run_repairs(
    service, create_endpoint, create_function, start
):
    create_endpoint("endless", 5)
    function = create_function("impatient", timeout=1, ENDPOINT_NAME="endless")
    run = start("call-lambda", "--function", function, "-n", "2")
    code, _, err = run.end()
    assert code == 1
    assert "Task timed out after 1.00 seconds" in run.rows(2)[0]["body_response"]
    assert "remedy: Raise the Timeout of the function" in err
    assert "function impatient timed out after 1 s: its Timeout may be up to 900" in service.log
    run.release()
    service.client("lambda").update_function_configuration(FunctionName=function, Timeout=60)
    again = start("call-lambda", "--function", function, "-n", "2", output=run.output / "again")
    assert again.end()[0] == 0
    assert outcomes(again.rows(2)) == {"200": 2}


def test_results_that_cannot_be_written_are_an_error_before_anybody_calls(
    service, create_function, start, tmp_path
):
    function = create_function("never-called", ENDPOINT_NAME="nobody")
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    run = start("call-lambda", "--function", function, "-n", "3", output=in_the_way / "results")
    code, _, err = run.end()
    assert code == 1
    assert "mme: The results cannot be written: Not a directory." in err
    assert "remedy: Make room there, or name a folder that can be written with --output." in err
    group = f"/aws/lambda/{function}"
    assert not service.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("call-lambda", "--function", "nobody", "-n", "2"), "Function not found"),
        (("call-sagemaker", "--endpoint", "nobody", "-n", "2"), "Could not find endpoint"),
        (("call-sagemaker", "--endpoint", "x", "-n", "0"), "'0' is not a list of numbers"),
        (("call-sagemaker", "--endpoint", "x", "-n", "1,many"), "is not a list of numbers from 1"),
    ],
)
def test_who_does_not_exist_is_asked_by_nobody(service, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("MME_LOCAL_URL", service.url)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "data.json").write_text("{}")
    files = ["--data", str(tmp_path / "data.json"), "--output", str(tmp_path / "results")]
    result = CliRunner().invoke(app, ["clients", *arguments, *files])
    assert result.exit_code != 0
    assert message in result.output
    assert not list(tmp_path.glob("results/*"))


def test_clients_that_do_not_come_together_in_time_are_told_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(executions, "_START_S", 0.0)
    call = EndpointCall(Settings(), "any", CallRequest(b"{}"))
    with pytest.raises(EndpointError, match="2 clients are too many here: not all had begun"):
        list(call_together(call, 2))


def test_without_a_service_the_remedy_is_to_start_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MME_LOCAL_URL", f"http://127.0.0.1:{free_port()}")
    (tmp_path / "data.json").write_text("{}")
    files = ["--data", str(tmp_path / "data.json"), "--output", str(tmp_path / "results")]
    result = CliRunner().invoke(
        app, ["clients", "call-lambda", "--function", "f", "-n", "2", *files]
    )
    assert result.exit_code == 1
    assert "remedy: Start the local endpoint: mme up." in result.output


def test_other_errors_are_rows_too_and_no_answer_at_all_ends_with_1(create_endpoint, start):
    create_endpoint("failing", 5)
    run = start("call-sagemaker", "--endpoint", "failing", "-n", "2", body={"status": 500})
    code, _, err = run.end()
    assert code == 1
    assert 'The first failure: {"errorMessage": "An error occurred (ModelError)' in err
    assert {row["status_response"] for row in run.rows(2)} == {"424"}
