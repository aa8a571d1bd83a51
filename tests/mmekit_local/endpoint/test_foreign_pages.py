"""A page in a browser that is not the server's own reaches nothing, at either server."""

import functools
import http.client
import http.server
import json
import socket
import threading
import urllib.parse

import httpx
import pytest

from tests.mmekit_local.endpoint.browser import running_chromium
from tests.server_process import ServerProcess

PATIENCE = 60
SCOPE = "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/{}/aws4_request, Signature=0"
MODEL = """
from pathlib import Path

Path(__file__).with_name("ran").touch()

def handle(inputs):
    return None
"""
GIB = 1 << 30


@pytest.fixture(scope="module")
def container():
    """What `mme serve` starts."""
    running = ServerProcess()
    yield running
    running.close()


@pytest.fixture
def trap(tmp_path):
    """A model's folder in which a file `ran` appears when the model is loaded."""
    folder = tmp_path / "trap"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "serving.properties").write_text("engine=Python\nminWorkers=1\nmaxWorkers=1\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _kept(service, echo):
    service.client("s3").create_bucket(Bucket="private")
    service.client("s3").put_object(Bucket="private", Key="kept", Body=b"a secret")


def sent(url, head, body=b""):
    """Send the bytes of a request; return the status, the headers and the body of the answer."""
    address = urllib.parse.urlsplit(url)
    where = (address.hostname, address.port)
    with socket.create_connection(where, timeout=PATIENCE) as connection:
        connection.sendall(head.encode("latin-1") + body)
        answer = http.client.HTTPResponse(connection, method=head.partition(" ")[0])
        answer.begin()
        return answer.status, answer.headers, answer.read()


def head_of(line, url, *headers):
    host = urllib.parse.urlsplit(url).netloc
    lines = list(headers)
    if not any(one.startswith("Host:") for one in lines):
        lines.insert(0, f"Host: {host}")
    return "\r\n".join([f"{line} HTTP/1.1", *lines, "", ""])


def strangers(url):
    """The headers of requests that a browser sends for pages of others."""
    port = urllib.parse.urlsplit(url).port
    return [
        ["Origin: http://stranger.example"],
        ["Origin: null"],
        ["Origin: http://127.0.0.1:1"],
        [f"Origin: http://localhost:{port}"],
        ["Origin: http://stranger.example", "Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"],
        ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"],
        [f"Host: stranger.example:{port}"],
        [f"Host: stranger.example:{port}", f"Origin: http://stranger.example:{port}"],
        [f"Host: stranger.example:{port}", "Sec-Fetch-Site: same-origin"],
    ]


def refused(url, line, *more, body=b""):
    """See that a request is refused, whoever's page sends it, with the reason and the remedy."""
    for stranger in strangers(url):
        length = [f"Content-Length: {len(body)}"] if body else []
        head = head_of(line, url, *stranger, *more, *length)
        status, headers, told = sent(url, head, body)
        assert status == 403, (line, stranger)
        assert not [name for name in headers if name.lower().startswith("access-control-")]
        if not line.startswith("HEAD"):
            message = json.loads(told)["message"]
            assert "MMEKIT_ALLOWED_HOSTS" in message or "a tab of its own" in message


class TestTheContainer:
    def test_a_page_loads_no_model(self, container, trap):
        path = f"/models?model_name=trap&url={trap.as_uri()}"
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            refused(container.base, f"POST {path}", f"Content-Type: {kind}", body=b"x=1")
        refused(container.base, f"POST {path}")
        body = json.dumps({"model_name": "trap", "url": trap.as_uri()}).encode()
        refused(container.base, "POST /models", "Content-Type: application/json", body=body)
        assert container.client.get("/models").json()["models"] == []
        assert not (trap / "ran").exists()

    @pytest.mark.parametrize(
        "line",
        [
            *("GET /models", "GET /ping", "GET /metrics", "GET /openapi.json", "OPTIONS /"),
            *("POST /models/any/invoke", "POST /invocations", "GET /predictions/any"),
            *("DELETE /models/any", "HEAD /ping", "GET /elsewhere"),
        ],
    )
    def test_a_page_reaches_no_path(self, container, line):
        refused(container.base, line)

    def test_programs_are_answered(self, container, trap):
        path = f"/models?model_name=trap&url={trap.as_uri()}"
        for header in ([], ["Content-Type: text/plain"]):
            assert sent(container.base, head_of(f"POST {path}", container.base, *header))[0] == 200
            assert container.unload("trap").status_code == 200
        assert (trap / "ran").exists()


class TestTheEndpoint:
    @pytest.mark.parametrize(
        "line",
        [
            *("GET /", "GET /?X-Amz-x=1", "GET /private?X-Amz-x=1", "HEAD /private/kept?X-Amz-x=1"),
            *("GET /private/kept", "PUT /private/new", "OPTIONS /private/kept", "DELETE /private"),
            *("GET /?Action=CreateUser&UserName=eve&Version=2010-05-08", "POST /"),
            *("POST /endpoints/echo/invocations", "POST /2015-03-31/functions/f/invocations"),
            *("GET /_mme/events", "GET /_mme/metrics", "GET /_mme/page.js", "POST /_mme/invoke"),
            *("GET /moto-api/data.json", "POST /%6Doto-api/reset", "GET /latest/meta-data/"),
        ],
    )
    @pytest.mark.parametrize("service_name", [None, "s3", "sagemaker", "iam"])
    def test_a_page_reaches_no_path(self, service, line, service_name):
        signed = [f"Authorization: {SCOPE.format(service_name)}"] if service_name else []
        refused(service.url, line, *signed)

    def test_a_page_changes_nothing_by_a_form(self, service):
        form = b"Action=CreateUser&UserName=eve&Version=2010-05-08"
        signed = f"Authorization: {SCOPE.format('iam')}"
        kind = "Content-Type: application/x-www-form-urlencoded"
        refused(service.url, "POST /", kind, body=form)
        refused(service.url, "POST /", kind, signed, body=form)
        delete = b"<Delete><Object><Key>kept</Key></Object></Delete>"
        refused(
            service.url, "POST /private?delete&X-Amz-x=1", "Content-Type: text/plain", body=delete
        )
        assert service.client("iam").list_users()["Users"] == []
        assert service.client("s3").list_objects_v2(Bucket="private")["KeyCount"] == 1

    def test_a_picture_in_a_browser_that_does_not_say_whose_page_it_is_changes_nothing(
        self, service
    ):
        for action in ("Action=CreateUser", "%41ction=CreateUser", "a=b&Action=CreateUser"):
            line = f"GET /?{action}&UserName=eve&Version=2010-05-08"
            assert sent(service.url, head_of(line, service.url))[0] == 403
        assert service.client("iam").list_users()["Users"] == []

    def test_a_presigned_url_is_opened_by_programs_and_in_a_tab(self, service):
        place = {"Bucket": "private", "Key": "kept"}
        s3 = service.client("s3", signature_version="s3v4")
        url = s3.generate_presigned_url("get_object", place)
        typed = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
        for headers in ({}, typed):
            answer = httpx.get(url, headers=headers)
            assert (answer.status_code, answer.content) == (200, b"a secret")
        caller = service.client("sts").generate_presigned_url("get_caller_identity")
        assert httpx.get(caller).status_code == 200

    def test_a_bucket_may_be_part_of_the_host(self, service):
        port = urllib.parse.urlsplit(service.url).port
        for name in ("private.localhost", "localhost"):
            path = "/kept" if name.startswith("private") else "/private/kept"
            signed = f"Authorization: {SCOPE.format('s3')}"
            head = head_of(f"GET {path}", service.url, f"Host: {name}:{port}", signed)
            status, _, body = sent(service.url, head)
            assert (status, body) == (200, b"a secret")

    def test_an_object_that_is_a_page_is_one_of_nowhere(self, service):
        s3 = service.client("s3")
        for kind in ("text/html", "image/svg+xml", "application/xhtml+xml"):
            s3.put_object(Bucket="private", Key="page", Body=b"<b>", ContentType=kind)
            got = s3.get_object(Bucket="private", Key="page")
            policy = got["ResponseMetadata"]["HTTPHeaders"]["content-security-policy"]
            assert policy.startswith("sandbox")
            assert "same-origin" not in policy
        s3.delete_object(Bucket="private", Key="page")
        got = s3.get_object(Bucket="private", Key="kept")
        assert "content-security-policy" not in got["ResponseMetadata"]["HTTPHeaders"]

    @pytest.mark.parametrize(
        "prefix",
        [
            *("/moto-api", "/%6Doto-api", "/%6D%6F%74%6F-api", "/%256Doto-api", "//moto-api"),
            *("/./moto-api", "/x/../moto-api", "/%2Fmoto-api", "/moto-api/.", "/moto%2Dapi"),
            *("/moto-api%2F..%2Fmoto-api", "http://localhost/moto-api", "/\\moto-api"),
        ],
    )
    @pytest.mark.parametrize(
        "scope", [None, "s3", "moto_api", "motoapi.amazonaws.com"], ids=lambda one: one or "none"
    )
    def test_what_runs_behind_offers_no_controls_of_its_own(self, service, prefix, scope):
        signed = [f"Authorization: {SCOPE.format(scope)}"] if scope else []
        for line in (
            f"GET {prefix}/data.json",
            f"GET {prefix}/",
            f"POST {prefix}/reset",
            f"POST {prefix}/seed?a=1",
            f"GET {prefix}/recorder/download-recording",
        ):
            status, _, body = sent(service.url, head_of(line, service.url, *signed))
            assert status >= 300, line
            assert b"FakeBucket" not in body
        assert service.client("s3").list_objects_v2(Bucket="private")["KeyCount"] == 1

    def test_nothing_tells_a_browser_that_others_may_read(self, service):
        own = f"Origin: {service.url}"
        for signed in ([], [f"Authorization: {SCOPE.format('s3')}"]):
            for line in ("GET /", "GET /private/kept", "OPTIONS /private/kept"):
                _, headers, _ = sent(service.url, head_of(line, service.url, own, *signed))
                assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("length", [f"Content-Length: {GIB}", "Transfer-Encoding: chunked"])
def test_what_a_page_sends_is_refused_before_it_comes(service, container, length):
    for url in (service.url, container.base):
        for line in ("POST /", "PUT /private/large", "POST /models"):
            refused(url, line, length, "Content-Type: text/plain")
    assert service.client("s3").list_objects_v2(Bucket="private")["KeyCount"] == 1


@pytest.fixture(scope="module")
def chromium():
    """A running Chromium to which a stranger's DNS gives this machine's address."""
    with running_chromium("--host-resolver-rules=MAP stranger.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def page(chromium):
    """A tab."""
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    yield tab
    context.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The port of another server on this machine, which has one page."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "index.html").write_text("<!doctype html><title>elsewhere</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


# All that a page can send without being asked whether it may, and what it learns of the answer.
ATTEMPTS = """async ([urls, model]) => {
  const learnt = [];
  const forms = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
  const settled = (node, start) => new Promise((resolve) => {
    node.addEventListener("load", resolve, {once: true});
    node.addEventListener("error", resolve, {once: true});
    setTimeout(resolve, 5000);
    start();
  });
  const create = "?Action=CreateUser&UserName=eve&Version=2010-05-08";
  const paths = [
    "/", "/?X-Amz-x=1", "/private/kept?X-Amz-x=1", "/models", "/_mme/metrics", "/_mme/events",
    "/%6Doto-api/data.json", `/${create}`, `/models?model_name=trap&url=${model}`,
  ];
  const body = "Action=CreateUser&UserName=eve&Version=2010-05-08";
  for (const url of urls) {
    for (const path of paths) {
      for (const mode of ["cors", "no-cors"]) {
        for (const method of ["GET", "POST"]) {
          try {
            const kind = {"content-type": "text/plain"};
            const what = method === "GET" ? {} : {body, headers: kind};
            const answer = await fetch(url + path, {mode, method, ...what});
            if (answer.type !== "opaque") learnt.push([path, method, await answer.text()]);
          } catch { /* which is all that a page is told */ }
        }
      }
      const picture = new Image();
      await settled(picture, () => { picture.src = url + path; });
      const script = document.createElement("script");
      await settled(script, () => { script.src = url + path; document.head.append(script); });
    }
    for (const kind of forms) {
      for (const path of ["/", `/models?model_name=trap&url=${model}`]) {
        const frame = document.createElement("iframe");
        frame.name = `f${Math.random()}`;
        document.body.append(frame);
        const form = document.createElement("form");
        Object.assign(form, {
          target: frame.name, method: "post", enctype: kind, action: url + path,
        });
        for (const pair of body.split("&")) {
          const [name, value] = pair.split("=");
          const input = document.createElement("input");
          Object.assign(input, {name, value});
          form.append(input);
        }
        document.body.append(form);
        await settled(frame, () => form.submit());
      }
    }
    navigator.sendBeacon(`${url}/${create}`, body);
  }
  return learnt;
}"""


class TestInChromium:
    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "stranger.example"])
    def test_a_page_of_another_server_reaches_neither(
        self, service, container, trap, elsewhere, page, name
    ):
        page.goto(f"http://{name}:{elsewhere}/")
        before = service.log.count("a request is refused")
        urls = [service.url, container.base, service.url.replace("127.0.0.1", "localhost")]
        learnt = page.evaluate(ATTEMPTS, [urls, trap.as_uri()])

        assert learnt == []
        assert service.log.count("a request is refused") > before  # they did come
        assert service.client("iam").list_users()["Users"] == []
        assert container.client.get("/models").json()["models"] == []
        assert not (trap / "ran").exists()

    def test_a_name_that_a_strangers_dns_gave_these_servers_reaches_neither(
        self, service, container, trap, page
    ):
        for url in (service.url, container.base):
            strange = url.replace("127.0.0.1", "stranger.example")
            for path in ("/", "/_mme/", "/models", "/private/kept?X-Amz-x=1"):
                assert page.goto(strange + path).status == 403
            # A page that was there before the name led here is of the same origin.
            assert page.evaluate("location.origin") == strange
            got = page.evaluate("async () => (await fetch('/private/kept?X-Amz-x=1')).status")
            assert got == 403
            sent = "async (path) => (await fetch(path, {method: 'POST'})).status"
            path = f"/models?model_name=trap&url={trap.as_uri()}"
            assert page.evaluate(sent, path) == 403
        assert not (trap / "ran").exists()

    def test_a_link_of_another_page_leads_to_the_page(self, service, elsewhere, page):
        page.goto(f"http://localhost:{elsewhere}/")
        link = """(url) => {
          const link = document.createElement("a");
          Object.assign(link, {href: url, textContent: "the page"});
          document.body.append(link);
          link.click();
        }"""
        page.evaluate(link, f"{service.url}/_mme/")
        page.wait_for_selector("#connection[data-state=live]")

    def test_a_presigned_object_opens_in_a_tab_and_its_scripts_reach_nothing(self, service, page):
        script = b"""<!doctype html><title>waiting</title><script>
          const tries = ["/private/kept", "/?X-Amz-x=1", "/_mme/metrics"].map((path) =>
            fetch(path).then((answer) => answer.text(), () => "nothing"));
          Promise.all(tries).then((all) => { document.title = all.join(" "); });
        </script>"""
        s3 = service.client("s3", signature_version="s3v4")
        place = {"Bucket": "private", "Key": "page.html"}
        s3.put_object(**place, Body=script, ContentType="text/html")
        assert page.goto(s3.generate_presigned_url("get_object", place)).status == 200
        page.wait_for_function("document.title !== 'waiting'")
        assert page.title() == "nothing nothing nothing"
        s3.delete_object(**place)
