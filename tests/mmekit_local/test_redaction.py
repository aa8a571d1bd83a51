"""Secrets by their names, in texts of any form."""

import logging

import pytest

from mmekit_local.redaction import LineFormatter, is_secret, redacted

HEADERS = (
    *("Authorization", "proxy-authorization", "PROXY_AUTHORIZATION", "Cookie", "set-cookie"),
    *("X-Amz-Security-Token", "x-api-key", "X-Auth-Token"),
    "x-amz-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-MD5",
)
PARAMETERS = (
    *("X-Amz-Signature", "x-amz-signature", "X%2DAmz%2DSignature", "Signature", "SecurityToken"),
    *("Password", "NewPassword", "oldpassword", "SecretAccessKey", "aws_secret_access_key"),
    *("PrivateKey", "WebIdentityToken", "SAMLAssertion", "aws_session_token", "client_secret"),
)
HARMLESS = (
    *(
        "Host",
        "X-Amz-Date",
        "X-Amz-Target",
        "X-Amz-SignedHeaders",
        "uploadId",
        "continuation-token",
    ),
    *("MinimumPasswordLength", "MaxPasswordAge", "PasswordReusePrevention", "AccessKeyId", "Key"),
    *("AllowUsersToChangePassword", "x-amz-server-side-encryption-customer-algorithm"),
)
FORMS = (
    "{}: hush",
    "GET /?a=b&{}=hush&c=d HTTP/1.1",
    "{}=hush",
    "{}%3Dhush%26c=d",
    "KeyError: {{'{}': 'hush \\'hush'}}",
    '{{"{}": "hush \\"hush", "a": 1}}',
    "[(b'{}', b'hush, hush')]",
    "<{0}>hush</{0}>",
)


@pytest.mark.parametrize("name", [*HEADERS, *PARAMETERS])
def test_what_a_secret_is_called_hides_it_wherever_it_stands(name):
    assert is_secret(name)
    for form in FORMS:
        text = form.format(name)
        assert "hush" not in redacted(text), text
        assert name in redacted(text)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_called_otherwise_stays(name):
    assert not is_secret(name)
    for form in FORMS:
        text = form.format(name)
        assert redacted(text) == text


def test_the_rest_of_a_header_of_many_words_goes_with_it():
    line = "authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=hush"
    assert redacted(f"{line}\nhost: here") == "authorization: ***\nhost: here"
    assert redacted("via http://me:hush@proxy:80/") == "via http://***@proxy:80/"
    assert redacted("the signature is wrong: see the key") == "the signature is wrong: see the key"


def test_a_line_of_a_log_and_its_traceback_have_no_secret():
    formatter = LineFormatter("%(levelname)s %(message)s")

    def line(message, **more):
        return formatter.format(logging.makeLogRecord({"msg": message, "levelname": "INFO"} | more))

    try:
        int("Password=hush")
    except ValueError as error:
        raised = (ValueError, error, error.__traceback__)
    told = line("POST /?x-amz-signature=hush", exc_info=raised)
    assert "Traceback" in told
    assert "hush" not in told
    # What a model prints is its author's.
    assert line("password=mine", printed=True) == "INFO password=mine"
