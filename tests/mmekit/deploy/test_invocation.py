"""`mme invoke` says what is wrong with a request, and what there is where a name is not."""

import json

import pytest

from mmekit.deploy.invocation import content_type_of
from mmekit.errors import EndpointError
from tests.mmekit.deploy.conftest import Desk

SHOPS = """\
    name: shops
    instance_type: ml.m5.xlarge
    packages:
      - archive: aachen.tar.gz
      - archive: berlin.tar.gz
"""


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """An endpoint with two models, for the whole module."""
    desk = Desk(tmp_path_factory.mktemp("standing"), service.url)
    for name in ("aachen", "berlin"):
        desk.pack(f"{name}.tar.gz", of=name)
    desk.write(SHOPS)
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")


def invoke(endpoint, model, data, *more):
    return ("invoke", endpoint, "--target-model", model, "--data", data, *more)


def test_an_endpoint_that_is_not_there_comes_with_the_nearest_names(standing):
    standing.put("x.json", "{}")

    told = standing.refused(*invoke("shop", "aachen.tar.gz", "x.json"))

    assert "mme: There is no endpoint shop\n" in told
    assert "remedy: did you mean shops? There is 1 endpoint: shops" in told


@pytest.mark.parametrize("asked", ["achen.tar.gz", "aachen", "Aachen.tar.gz", "aachen.tar"])
def test_a_model_that_is_not_there_comes_with_the_nearest_names(standing, asked):
    standing.put("x.json", "{}")

    told = standing.refused(*invoke("shops", asked, "x.json"))

    assert f"mme: There is no model {asked} behind the endpoint shops\n" in told
    assert "did you mean aachen.tar.gz" in told
    assert "2 models: aachen.tar.gz, berlin.tar.gz" in told


@pytest.mark.parametrize("option", ["--content-type", "--accept", "--custom-attributes"])
@pytest.mark.parametrize("value", ["text/csv\nX: y", "caf\u00e9", "a\x1b[31m"])
def test_what_no_header_can_be_is_told_and_not_sent(standing, option, value):
    standing.put("x.json", "{}")

    told = standing.refused(*invoke("shops", "aachen.tar.gz", "x.json", option, value))

    assert f"mme: {option} has the character " in told
    assert "Nothing was sent" in told
    assert "Nothing listens" not in told
    assert value not in told


def test_what_botocore_refuses_does_not_read_as_a_service_that_is_down(standing):
    standing.put("x.json", "{}")

    told = standing.refused(*invoke("a b", "aachen.tar.gz", "x.json"))

    assert "mme up" not in told
    told = standing.refused(
        *invoke("shops", "aachen.tar.gz", "x.json"), MME_LOCAL_URL="http://127.0.0.1:9"
    )
    assert "Nothing listens at http://127.0.0.1:9" in told


def test_json_with_a_mistake_is_told_by_line_and_column_and_not_sent(standing):
    standing.put("x.json", '{"instances": [\n  [1.0,, 2.0]\n]}')

    told = standing.refused(*invoke("shops", "aachen.tar.gz", "x.json"))

    assert "The body is not application/json: Expecting value at line 2, column 8." in told
    assert "Nothing was sent" in told
    assert "where: x.json" in told

    standing.put("x.jsonl", '{"a": 1}\n\n{"a": }\n')
    told = standing.refused(*invoke("shops", "aachen.tar.gz", "x.jsonl"))
    assert "at line 3, column 7" in told


def test_an_empty_file_is_not_sent(standing):
    standing.put("x.csv", "")

    told = standing.refused(*invoke("shops", "aachen.tar.gz", "x.csv"))

    assert "The request body is empty, and nothing was sent" in told


def test_what_has_no_known_suffix_is_not_guessed_but_for_json_which_is_said(standing):
    standing.put("rows.dat", "1,2\n")
    told = standing.refused(*invoke("shops", "aachen.tar.gz", "rows.dat"))
    assert "The suffix '.dat' is unknown" in told
    assert "give --content-type" in told

    standing.put("rows.dat", "[1, 2]")
    done = standing.run(*invoke("shops", "aachen.tar.gz", "rows.dat"))
    assert done.exit_code == 0, done.stderr
    note = "mme: sent as application/json, which the body is; --content-type says otherwise\n"
    assert note in done.stderr

    done = standing.run(*invoke("shops", "aachen.tar.gz", "rows.dat", "--content-type", "text/csv"))
    assert done.exit_code == 0
    assert "sent as" not in done.stderr


def test_a_models_own_status_and_message_are_shown(standing):
    standing.put("x.json", json.dumps({"status": 418}))

    told = standing.refused(*invoke("shops", "aachen.tar.gz", "x.json"))

    assert "mme: The model answered 418: " in told
    assert "where: shops, aachen.tar.gz" in told
    assert "mme describe ARCHIVE" in told


def test_without_credentials_it_is_said_how_to_sign_in(standing):
    standing.put("x.json", "{}")

    told = standing.refused(
        *invoke("shops", "aachen.tar.gz", "x.json"),
        MME_TARGET="aws",
        MME_REGION="us-east-1",
        MME_ROLE="arn:aws:iam::123456789012:role/its",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE="/dev/null",
        AWS_CONFIG_FILE="/dev/null",
    )

    assert "credentials" in told
    assert "Sign in (`aws configure sso`" in told


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("a.csv", b"1", "text/csv"),
        ("a.JPEG", b"1", "image/jpeg"),
        ("a.ndjson", b"1", "application/jsonlines"),
        (None, b' [1, {"a": null}]', "application/json"),
        ("a.dat", b'{"a": 1}', "application/json"),
    ],
)
def test_a_content_type_is_that_of_the_suffix_or_what_the_body_plainly_is(name, body, expected):
    assert content_type_of(name, body)[0] == expected


@pytest.mark.parametrize("body", [b"1", b'"text"', b"{not: json}", b"[1], [2]", b"\x93NUMPY"])
def test_any_other_has_to_be_given(body):
    with pytest.raises(EndpointError, match="Standard input has no name"):
        content_type_of(None, body)
