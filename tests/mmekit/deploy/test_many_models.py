"""Many models from one line of the file: a plan of a screen, exit codes, JSON, and the bill."""

import json

import pytest

from tests.mmekit.deploy.conftest import Desk, changes, wait_until

FILE = """
    name: fleet
    packages:
      - build/*.tar.gz
    alarms: {}
    metrics: models
"""


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """Twenty models, deployed."""
    desk = Desk(tmp_path_factory.mktemp("fleet"), service.url)
    for number in range(20):
        desk.pack(f"build/ridge-{number:03}.tar.gz", number=number)
    desk.write(FILE)
    desk.plan = desk.planned(COLUMNS="80")
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")


def test_a_plan_of_many_models_is_a_screen_of_80_columns_with_totals_at_its_end(deployed):
    lines = deployed.plan.splitlines()
    assert any(line.startswith("+ create 20 archives (ridge-000.tar.gz … ") for line in lines)
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    assert "In all: 29 to create, 0 to change, 0 to remove, 0 to keep; " in lines[-1]


def test_a_plan_that_would_change_nothing_ends_with_0_and_one_that_would_with_2(deployed):
    assert deployed.run("deploy", "--plan").exit_code == 0
    deployed.pack("build/ridge-020.tar.gz")
    (deployed.folder / "build/ridge-000.tar.gz").unlink()
    done = deployed.run("deploy", "--plan")
    assert done.exit_code == 2
    assert changes(done.stdout) == {
        "archive ridge-020.tar.gz": "create",
        "archive ridge-000.tar.gz": "remove",
    }
    (deployed.folder / "mme.yaml").unlink()
    assert deployed.run("deploy", "--plan").exit_code == 1


def test_each_archive_has_its_line_with_verbose(deployed):
    plan = deployed.planned("--verbose")
    assert plan.count("  keep   archive ridge-") == 20
    assert deployed.run("status", "-v").stdout.count(".tar.gz") >= 20


def test_a_plan_is_json_for_a_program(deployed):
    done = deployed.run("deploy", "--plan", "--json")
    plan = json.loads(done.stdout)
    assert (done.exit_code, plan["has_changes"], plan["totals"]["keep"]) == (0, False, 29)
    assert plan["usd_an_hour"] == 0.23
    assert {step["kind"] for step in plan["steps"]} >= {"bucket", "archive", "endpoint", "alarm"}
    done = deployed.run("destroy", "--plan", "--json")
    assert done.exit_code == 2
    gone = json.loads(done.stdout)
    assert gone["totals"]["remove"] == 29
    assert "--json is for --plan" in deployed.refused("deploy", "--json")


def test_the_status_is_what_a_bill_says(deployed, service):
    wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": 2, "DesiredWeight": 1.0}
    service.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName="fleet", DesiredWeightsAndCapacities=[wanted]
    )
    wait_until(lambda: service.described("fleet")["EndpointStatus"] == "InService")
    text = deployed.mme("status")
    assert "cost: 0.46 USD an hour for 2 instances" in text
    assert "335.80 USD for the instances" in text
    assert "ridge-000.tar.gz … ridge-019.tar.gz" in text
    assert "in S3: less than 0.01 USD" in text
    assert "4 alarms: 0.40 USD" in text
    assert "231 custom metrics, when every model is asked all month: 69.30 USD" in text
    assert "in all: 405.50 USD a month" in text
    assert "in no figure: " in text
    bill = json.loads(deployed.mme("status", "--json"))["bill"]
    assert [charge["month"] for charge in bill["charges"][1:]] == ["0.40", "69.30"]
    assert "instances: 2 -> 1" in deployed.planned()
    deployed.mme("deploy")


def test_unknown_prices_are_said_to_be(tmp_path, service):
    desk = Desk(tmp_path, service.url)
    desk.pack("build/a.tar.gz")
    desk.write(FILE.replace("fleet", "dear") + "    region: sa-east-1\n    volume_gb: 20\n")
    plan = desk.planned()
    assert "cost: unknown" in plan
    assert "20 GB of instances' disks: price unknown" in plan
    assert "4 alarms: price unknown" in plan
    assert "in all: " not in plan
