"""What a request asks for is found where moto looks, in no more time than it takes to read it."""

import time

import pytest

from mmekit_local.sagemaker.api import ApiRequest, operations_of

FORM = (b"content-type", b"multipart/form-data; boundary=x")


def posted(body):
    return ApiRequest(method="POST", path=b"/", query=b"", headers=[FORM], body=(body,))


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("name", [b'"Action"', b"Action"])
def test_the_operation_of_a_form_in_parts_is_found(end, name):
    head = end.join(
        (b"--x", b"Content-Disposition: form-data; name=" + name, b"Content-Type: text/plain")
    )
    body = head + end * 2 + b"CreateUser" + end + b"--x--" + end

    assert operations_of(posted(body)) == ["CreateUser"]
    assert operations_of(posted(head)) == []


@pytest.mark.parametrize("line", [b'name="Action"\n', b'name="Action"\n\n', b"a\n" * 7])
def test_a_form_that_is_made_to_take_long_takes_time_in_proportion(line):
    began = time.process_time()
    operations_of(posted(line * 20_000))
    assert time.process_time() - began < 5
