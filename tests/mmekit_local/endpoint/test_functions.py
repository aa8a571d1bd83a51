"""Lambda functions, which run for real when they are invoked."""

import base64
import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import sys
import threading
import zipfile

import psutil
import pytest
from botocore.exceptions import ClientError

from mmekit_local.aws.functions.runtime import can_mount

pytestmark = pytest.mark.timeout(300)

HANDLER = """
import boto3, json, logging, os, subprocess, sys, time
from pathlib import Path

print("importing", file=sys.stderr)
TEMPORARY = os.environ["TMPDIR"]


def handler(event, context):
    logging.getLogger().setLevel(logging.INFO)
    return globals()[event["do"]](event, context)


def describe(event, context):
    return {
        "environment": dict(os.environ),
        "event": event,
        "pid": os.getpid(),
        "id": context.aws_request_id,
        "left": context.get_remaining_time_in_millis(),
        "context": [
            context.function_name,
            context.function_version,
            context.invoked_function_arn,
            context.memory_limit_in_mb,
            context.log_group_name,
        ],
        "here": sorted(os.listdir()),
        "temporary": TEMPORARY,
    }


def say(event, context):
    print("first")
    logging.info("second")
    print("third", end="")


def fail(event, context):
    raise ValueError("it is " + "bad")


def leave(event, context):
    sys.exit(7)


def give_a_set(event, context):
    return {1, 2}


def give_much(event, context):
    return "x" * 7_000_000


def import_numpy(event, context):
    import numpy


def take_memory(event, context):
    taken = bytearray(400 << 20)
    time.sleep(60)


def list_buckets(event, context):
    return [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]


def wait(event, context):
    child = subprocess.Popen(["sleep", "100"])
    Path(event["gate"] + ".held").write_text(f"{os.getpid()} {child.pid}")
    while not Path(event["gate"]).exists():
        time.sleep(0.01)
    return "done"


def leave_behind(event, context):
    Path(TEMPORARY, "file").write_text("x")
    return subprocess.Popen(["sleep", "100"]).pid
"""


def zipped(**modules):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in modules.items():
            archive.writestr(f"{name}.py", text)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Answer:
    content: object
    error: str | None
    tail: str
    status: int


@pytest.fixture(scope="module")
def role(service):
    """The ARN of a role that functions may have."""
    iam = service.client("iam")
    return iam.create_role(RoleName="functions", AssumeRolePolicyDocument="{}")["Role"]["Arn"]


@pytest.fixture(scope="module")
def create(service, role):
    """A function that creates a Lambda function."""

    def create(name, code=None, handler="app.handler", **more):
        if code is None or isinstance(code, bytes):
            code = {"ZipFile": code or zipped(app=HANDLER)}
        more.setdefault("Timeout", 60)
        more.setdefault("Runtime", "python3.12")
        service.client("lambda").create_function(
            FunctionName=name, Role=role, Handler=handler, Code=code, **more
        )
        return name

    return create


@pytest.fixture(scope="module")
def invoke(service):
    """A function that invokes a Lambda function and waits for its answer."""

    def invoke(name, do="describe", **event):
        answer = service.client("lambda").invoke(
            FunctionName=name, Payload=json.dumps({"do": do, **event}), LogType="Tail"
        )
        return Answer(
            json.loads(answer["Payload"].read()),
            answer.get("FunctionError"),
            base64.b64decode(answer["LogResult"]).decode(),
            answer["StatusCode"],
        )

    return invoke


@pytest.fixture(scope="module")
def doing(create):
    """The name of a function that does what its event says."""
    return create("doing", MemorySize=192, Environment={"Variables": {"COLOUR": "blue"}})


def held(service, gate):
    """The ids of the processes of a function that waits: its own and its child's."""
    path = pathlib.Path(f"{gate}.held")
    text = service.wait_until(
        lambda: path.exists() and path.read_text(), 180, "the function's start"
    )
    return [int(number) for number in text.split()]


def gone(*pids):
    """Say whether processes have ended; somebody may still have to reap them."""
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in pids
    )


def log_of(service, name):
    group = f"/aws/lambda/{name}"
    if not service.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return []
    return service.client("logs").filter_log_events(logGroupName=group)["events"]


def test_a_handler_runs_with_its_event_its_environment_and_its_context(doing, invoke):
    answer = invoke(doing, number=[1, None, "ü"])
    assert (answer.status, answer.error) == (200, None)
    seen = answer.content
    assert seen["event"] == {"do": "describe", "number": [1, None, "ü"]}
    assert seen["environment"]["COLOUR"] == "blue"
    assert seen["environment"]["AWS_REGION"] == "us-east-1"
    assert seen["environment"]["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.12"
    assert seen["context"] == [
        "doing",
        "$LATEST",
        "arn:aws:lambda:us-east-1:123456789012:function:doing",
        "192",
        "/aws/lambda/doing",
    ]
    assert 0 < seen["left"] <= 60_000
    assert seen["here"] == ["app.py"]


def test_every_invocation_has_a_process_and_a_temporary_folder_of_its_own(doing, invoke):
    first, second = invoke(doing).content, invoke(doing).content
    assert first["pid"] != second["pid"]
    assert first["temporary"] != second["temporary"]
    assert gone(first["pid"], second["pid"])
    assert not pathlib.Path(first["temporary"]).exists()


def test_the_services_own_environment_stays_its_own(start_service, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the user's")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    service = start_service(tmp_path)
    try:
        iam = service.client("iam")
        arn = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        service.client("lambda").create_function(
            FunctionName="f",
            Role=arn,
            Handler="app.handler",
            Runtime="python3.11",
            Timeout=60,
            Code={"ZipFile": zipped(app=HANDLER)},
        )
        answer = service.client("lambda").invoke(FunctionName="f", Payload=b'{"do": "describe"}')
        environment = json.loads(answer["Payload"].read())["environment"]
    finally:
        service.stop()
    assert "SOME_TOKEN" not in environment
    assert environment["AWS_SECRET_ACCESS_KEY"] == "local"
    assert environment["HOME"] != os.environ.get("HOME")
    assert list(service.folder.iterdir()) == []


def test_boto3_in_a_function_reaches_the_same_service(service, doing, invoke):
    service.put("x", b"x", bucket="seen-by-a-function")
    assert "seen-by-a-function" in invoke(doing, "list_buckets").content


def test_no_variable_of_a_function_leads_its_boto3_elsewhere(service, create, invoke):
    own = {"AWS_ENDPOINT_URL": "https://sts.example", "AWS_ENDPOINT_URL_S3": "https://s3.example"}
    own |= {"AWS_PROFILE": "work", "AWS_CONFIG_FILE": "/home/config", "COLOUR": "blue"}
    own["http_proxy"] = "http://127.0.0.1:9"
    create("led-astray", Environment={"Variables": own})
    service.put("x", b"x", bucket="seen-by-a-function-led-astray")
    assert "seen-by-a-function-led-astray" in invoke("led-astray", "list_buckets").content
    seen = invoke("led-astray").content["environment"]
    assert (seen["AWS_ENDPOINT_URL"], seen["COLOUR"]) == (service.url, "blue")
    assert not own.keys() & seen.keys() - {"AWS_ENDPOINT_URL", "COLOUR", "http_proxy"}


def test_a_function_has_boto3_and_nothing_else_that_is_installed(doing, invoke):
    answer = invoke(doing, "import_numpy")
    assert answer.error == "Unhandled"
    assert answer.content["errorType"] == "ModuleNotFoundError"
    assert answer.content["errorMessage"] == "No module named 'numpy'"


def test_a_library_in_the_archive_comes_before_the_runtimes(create, invoke):
    code = zipped(app="import boto3\ndef handler(e, c): return boto3.NAME", boto3="NAME = 'own'")
    assert invoke(create("own-boto3", code)).content == "own"


PLACES = """
import os, sys
from pathlib import Path
import brought, boto3

def handler(event, context):
    def refusal():
        try:
            Path("/var/task/new").touch()
        except OSError as error:
            return error.strerror
    return {
        "root": os.environ["LAMBDA_TASK_ROOT"],
        "here": os.getcwd(),
        "file": __file__,
        "data": Path(os.environ["LAMBDA_TASK_ROOT"], "lib", "brought.py").exists(),
        "absolute": Path("/var/task/lib/brought.py").exists(),
        "others": sorted(os.listdir("/var")),
        "refusal": refusal(),
        "path": sys.path[:3],
        "brought": [brought.NAME, boto3.NAME],
    }
"""


def test_the_code_is_at_var_task_and_pythonpath_counts(create, invoke, monkeypatch):
    libraries = {"lib/brought": "NAME = 'brought'\n", "lib/boto3": "NAME = 'newer'\n"}
    paths = {"PYTHONPATH": "/var/task/lib:more"}
    code = zipped(app=PLACES, **libraries)
    seen = invoke(create("places", code, Environment={"Variables": paths})).content

    assert seen["brought"] == ["brought", "newer"]
    assert seen["data"]
    root = seen["root"]
    assert seen["here"] == root
    assert seen["file"] == f"{root}/app.py"
    assert seen["path"] == [root, f"{root}/lib", f"{root}/more"]
    if not can_mount(pathlib.Path.cwd()):
        pytest.skip("this kernel lets nobody see folders elsewhere: the code is where it is said")
    assert root == "/var/task"
    assert seen["absolute"]
    assert seen["refusal"] == "Read-only file system"
    assert set(seen["others"]) >= {
        one.name for one in pathlib.Path("/var").iterdir() if one.is_dir()
    }
    assert not pathlib.Path("/var/task/app.py").exists()


def test_another_python_than_the_functions_is_said_in_both_logs(service, create, invoke):
    create("of_old", Runtime="python3.9")
    create("of_now", Runtime="python{}.{}".format(*sys.version_info[:2]))

    for _ in range(2):
        assert "the function asks for python3.9" in invoke("of_old").tail.splitlines()[0]
    assert "INIT_START" not in invoke("of_now").tail

    said = [line for line in service.log.splitlines() if "asks for python3.9" in line]
    assert len(said) == 1
    assert "of_now asks" not in service.log


def test_what_a_handler_raises_is_told_in_lambdas_shape(doing, invoke):
    answer = invoke(doing, "fail")
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert list(answer.content) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert answer.content["errorMessage"] == "it is bad"
    assert answer.content["errorType"] == "ValueError"
    assert f"START RequestId: {answer.content['requestId']} " in answer.tail
    trace = answer.content["stackTrace"]
    assert re.match(r'  File "/var/task/app.py", line \d+, in handler\n    return ', trace[0])
    assert re.match(r'  File "/var/task/app.py", line \d+, in fail\n    raise ', trace[1])
    assert "[ERROR] ValueError: it is bad\nTraceback (most recent call last):\n" in answer.tail


@pytest.mark.parametrize(
    ("code", "handler", "kind", "message"),
    [
        (
            zipped(other=""),
            "app.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'app': No module named 'app'",
        ),
        (
            zipped(app="import missing"),
            "app.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'app': No module named 'missing'",
        ),
        (
            zipped(app=""),
            "app.handler",
            "Runtime.HandlerNotFound",
            "Handler 'handler' missing on module 'app'",
        ),
        (
            zipped(app=""),
            "app",
            "Runtime.MalformedHandlerName",
            "Bad handler 'app': not enough values to unpack (expected 2, got 1)",
        ),
        (
            zipped(app="def handler(:"),
            "app.handler",
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module 'app': invalid syntax (app.py, line 1)",
        ),
        (zipped(app="1 / 0"), "app.handler", "ZeroDivisionError", "division by zero"),
    ],
    ids=["no module", "no import", "no handler", "no dot", "syntax", "raises"],
)
def test_a_handler_that_cannot_be_imported_says_why(
    create, invoke, request, code, handler, kind, message
):
    name = "broken-" + request.node.callspec.id.replace(" ", "-")
    answer = invoke(create(name, code, handler))
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.content["errorType"] == kind
    assert answer.content["errorMessage"] == message


@pytest.mark.parametrize(
    ("do", "kind", "message"),
    [
        ("leave", "Runtime.ExitError", "Runtime exited with error: exit status 7"),
        ("give_a_set", "Runtime.MarshalError", "Object of type set is not JSON serializable"),
        ("give_much", "Function.ResponseSizeTooLarge", "maximum allowed payload size"),
        ("take_memory", "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
    ],
)
def test_a_run_that_gives_no_answer_says_why(doing, invoke, do, kind, message):
    answer = invoke(doing, do)
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.content["errorType"] == kind
    assert message in answer.content["errorMessage"]


def test_a_function_that_takes_too_long_is_ended_with_all_that_it_started(
    service, create, invoke, tmp_path
):
    name = create("slow", Timeout=4)
    answer = invoke(name, "wait", gate=str(tmp_path / "gate"))
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.content["errorMessage"].endswith("Task timed out after 4.00 seconds")
    assert "Task timed out after 4.00 seconds\n" in answer.tail
    assert "Duration: 4000.00 ms" in answer.tail
    pids = held(service, tmp_path / "gate")
    service.wait_until(lambda: gone(*pids), what="the end of its processes")


def test_what_a_function_left_running_ends_with_it(service, doing, invoke):
    child = invoke(doing, "leave_behind").content
    service.wait_until(lambda: gone(child), what="the child's end")


def test_its_lines_are_in_cloudwatch_logs_between_start_and_report(service, create, invoke):
    name = create("talking", Runtime="python{}.{}".format(*sys.version_info[:2]))
    tail = invoke(name, "say").tail
    events = log_of(service, name)
    assert "".join(event["message"] for event in events) == tail
    start, imported, first, second, third, end, report = [event["message"] for event in events]
    request_id = re.fullmatch(r"START RequestId: (\S+) Version: \$LATEST\n", start)[1]
    assert (imported, first, third) == ("importing\n", "first\n", "third\n")
    assert re.fullmatch(rf"\[INFO\]\t\S+Z\t{request_id}\tsecond\n", second)
    assert end == f"END RequestId: {request_id}\n"
    assert re.fullmatch(
        rf"REPORT RequestId: {request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 128 MB\tMax Memory Used: \d+ MB\tInit Duration: [\d.]+ ms\t\n",
        report,
    )
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", events[0]["logStreamName"])


def test_what_a_topic_and_a_bucket_have_for_a_function_is_run(service, create):
    name = create("listening", zipped(app="def handler(event, context):\n    print(event)\n"))
    function = service.client("lambda").get_function(FunctionName=name)
    arn = function["Configuration"]["FunctionArn"]
    topic = service.client("sns").create_topic(Name="told")["TopicArn"]
    service.client("sns").subscribe(TopicArn=topic, Protocol="lambda", Endpoint=arn)
    service.client("sns").publish(TopicArn=topic, Message="of the topic")
    s3 = service.client("s3")
    s3.create_bucket(Bucket="listened-to")
    heard = {"LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="listened-to", NotificationConfiguration={"LambdaFunctionConfigurations": [heard]}
    )
    s3.put_object(Bucket="listened-to", Key="of-the-bucket", Body=b"x")

    def said():
        text = "".join(event["message"] for event in log_of(service, name))
        return "of the topic" in text and "of-the-bucket" in text

    service.wait_until(said, what="both events")


def test_an_event_is_accepted_at_once_and_run_later(service, create):
    name = create("later")
    client = service.client("lambda")
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=b'{"do": "say"}')
    assert answer["StatusCode"] == 202
    assert answer["Payload"].read() == b""
    service.wait_until(
        lambda: any(event["message"].startswith("REPORT") for event in log_of(service, name)),
        180,
        "the event's run",
    )


def test_a_dry_run_runs_nothing(service, create):
    name = create("dry")
    client = service.client("lambda")
    assert client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204
    assert log_of(service, name) == []


def test_a_function_that_does_not_exist_is_not_found(service):
    client = service.client("lambda")
    for how in ("RequestResponse", "Event", "DryRun"):
        with pytest.raises(client.exceptions.ResourceNotFoundException, match="Function not found"):
            client.invoke(FunctionName="nobody", InvocationType=how)


def test_a_payload_that_is_no_json_is_refused(service, doing):
    client = service.client("lambda")
    with pytest.raises(client.exceptions.InvalidRequestContentException, match="parse request"):
        client.invoke(FunctionName=doing, Payload=b"{")


def test_what_is_no_python_does_not_run(service, create):
    name = create("javascript", Runtime="nodejs22.x")
    client = service.client("lambda")
    with pytest.raises(client.exceptions.InvalidRuntimeException, match="only Python functions"):
        client.invoke(FunctionName=name)


def test_code_that_is_no_zip_or_is_not_there_is_refused_when_the_function_is_created(
    service, create
):
    service.put("not.zip", b"nothing", bucket="code")
    for code, reason in (
        (b"nothing", "Could not unzip uploaded file"),
        ({"S3Bucket": "code", "S3Key": "not.zip"}, "Could not unzip uploaded file"),
        ({"S3Bucket": "code", "S3Key": "missing.zip"}, "NoSuchKey"),
    ):
        with pytest.raises(ClientError, match=reason) as raised:
            create("bad-code", code)
        assert raised.value.response["Error"]["Code"] == "InvalidParameterValueException"


def test_code_that_is_damaged_inside_its_zip_is_told_when_it_is_unpacked(service, create):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app.py", HANDLER)
    code = bytearray(buffer.getvalue())
    begin = len("app.py") + 30  # of the file's bytes, after its header
    code[begin : begin + 8] = b"\xff" * 8
    name = create("damaged", bytes(code))
    client = service.client("lambda")
    with pytest.raises(client.exceptions.InvalidZipFileException, match="could not unzip"):
        client.invoke(FunctionName=name)


def test_new_code_and_new_settings_count_from_the_next_invocation(service, create, invoke):
    service.put("1.zip", zipped(app="def handler(e, c): return 1"), bucket="code")
    service.put("2.zip", zipped(app="import os\ndef handler(e, c): return os.environ['N']"), "code")
    name = create("changing", {"S3Bucket": "code", "S3Key": "1.zip"})
    assert invoke(name).content == 1
    client = service.client("lambda")
    client.update_function_code(FunctionName=name, S3Bucket="code", S3Key="2.zip")
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {"N": "2"}})
    assert invoke(name).content == "2"
    client.delete_function(FunctionName=name)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        invoke(name)


def test_more_at_a_time_than_are_reserved_are_refused(service, create, invoke, tmp_path):
    name = create("narrow")
    client = service.client("lambda")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    gate = tmp_path / "gate"
    first = threading.Thread(target=invoke, args=(name, "wait"), kwargs={"gate": str(gate)})
    first.start()
    try:
        held(service, gate)
        with pytest.raises(client.exceptions.TooManyRequestsException) as raised:
            invoke(name)
        response = raised.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
        assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        # An event waits for its turn.
        client.invoke(FunctionName=name, InvocationType="Event", Payload=b'{"do": "say"}')
    finally:
        gate.touch()
        first.join(180)
    service.wait_until(
        lambda: any(event["message"] == "first\n" for event in log_of(service, name)),
        180,
        "the event's run",
    )
    service.wait_until(lambda: runs(invoke, name), 180, "room for another run")


def runs(invoke, name):
    try:
        return invoke(name).error is None
    except ClientError:
        return False


def test_a_function_that_a_stack_creates_runs_too(service, invoke):
    service.put("stack.zip", zipped(app=HANDLER), bucket="code")
    template = {
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17"}},
            },
            "Function": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "FunctionName": "of-a-stack",
                    "Runtime": "python3.12",
                    "Handler": "app.handler",
                    "Timeout": "60",
                    "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                    "Code": {"S3Bucket": "code", "S3Key": "stack.zip"},
                    "Environment": {"Variables": {"COLOUR": "red"}},
                },
            },
        }
    }
    stack = service.client("cloudformation")
    stack.create_stack(
        StackName="lambda", TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM"]
    )
    answer = invoke("of-a-stack")
    assert answer.content["environment"]["COLOUR"] == "red"
    assert answer.content["left"] <= 60_000


def test_with_a_state_folder_functions_are_there_after_a_restart(start_service, tmp_path):
    heard = tmp_path / "heard"

    def hear(service, client, role):
        code = f"def handler(e, c): open({str(heard)!r}, 'a').write(e['Records'][0]['eventName'])"
        made = client.create_function(
            FunctionName="hears",
            Role=role,
            Handler="app.handler",
            Runtime="python3.11",
            Timeout=60,
            Code={"ZipFile": zipped(app=code)},
        )
        told = {"LambdaFunctionArn": made["FunctionArn"], "Events": ["s3:ObjectCreated:*"]}
        service.client("s3").create_bucket(Bucket="heard")
        service.client("s3").put_bucket_notification_configuration(
            Bucket="heard", NotificationConfiguration={"LambdaFunctionConfigurations": [told]}
        )
        service.put("one", b"x", "heard")
        service.wait_until(lambda: heard.exists() and heard.read_text(), what="the event")

    for number in (1, 2, 3):  # the third time, the state has been compacted
        (tmp_path / str(number)).mkdir()
        service = start_service(tmp_path / str(number), "--state", str(tmp_path / "state"))
        client = service.client("lambda")
        try:
            if number == 1:
                iam = service.client("iam")
                arn = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
                service.put("f.zip", zipped(app="def handler(e, c): return 'kept'"), "code")
                client.create_function(
                    FunctionName="f",
                    Role=arn,
                    Handler="app.handler",
                    Runtime="python3.11",
                    Timeout=60,
                    Code={"S3Bucket": "code", "S3Key": "f.zip"},
                )
                service.put("f.zip", b"something else", "code")
                hear(service, client, arn)
            answer = client.invoke(FunctionName="f")
            assert json.loads(answer["Payload"].read()) == "kept"
            assert heard.read_text().count("ObjectCreated:Put") == 1
        finally:
            service.stop(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_function_outlives_the_service(start_service, tmp_path, number):
    service = start_service(tmp_path)
    try:
        iam = service.client("iam")
        arn = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        service.client("lambda").create_function(
            FunctionName="f",
            Role=arn,
            Handler="app.handler",
            Runtime="python3.11",
            Timeout=900,
            Code={"ZipFile": zipped(app=HANDLER)},
        )
        event = json.dumps({"do": "wait", "gate": str(tmp_path / "gate")})
        service.client("lambda").invoke(FunctionName="f", InvocationType="Event", Payload=event)
        pids = held(service, tmp_path / "gate")
        assert not gone(*pids)
    finally:
        service.stop(number)
    service.wait_until(lambda: gone(*pids), 60, "the end of the function's processes")
    if number == signal.SIGTERM:
        assert list(service.folder.iterdir()) == []
        assert "Traceback" not in service.log
