"""The page under /_mme/, in Chromium and without it."""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import socket
import threading
import urllib.parse

import pytest

from mmekit.archive import Example, Manifest, Measured, MeasuredMemory
from mmekit_runtime.signature import Column, Signature

HERE = pathlib.Path(__file__).parent
SHOTS = HERE.parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def endpoint(service):
    """An endpoint of one instance with room for two models."""
    for key in ("a.tar.gz", "b.tar.gz", "c.tar.gz", "team/d.tar.gz"):
        service.put(key, service.echo_archive())
    service.put(
        "team/sampled.tar.gz", archive_of(service, manifest(Example("text/csv", "1,Oslo\n")))
    )
    signature = Signature((Column("city", "string", known=("Oslo",)),)).to_json()
    service.put("signed.tar.gz", archive_of(service, {"signature.json": signature}))
    service.put("damaged.tar.gz", b"no archive")
    return service.create_endpoint("shown", environment={"CAPACITY": "2"})


@pytest.fixture
def token(service):
    """The header by which the page's form shows that this server told it so."""
    with told(service) as ((_, state), _):
        return {"X_Mme_Token": state["token"]}


def manifest(example):
    """Return manifest.json of an archive with a sample request."""
    measured = Measured("3.11", {}, (), (), (), (), {}, MeasuredMemory(1, 1, 1, "psutil"), None, "")
    return {"manifest.json": Manifest("m", "1", None, False, measured, {}, None, example).to_json()}


def archive_of(service, files):
    """Return an archive of the small container with further files."""
    return service.archive({"model.json": b"{}", **files})


def ask(service, path, method="GET", body=None, **headers):
    address = urllib.parse.urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    try:
        connection.request(method, path, body, {n.replace("_", "-"): v for n, v in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def form(**changed):
    return json.dumps(
        {
            "account": "123456789012",
            "region": "us-east-1",
            "endpoint": "shown",
            "target": "a.tar.gz",
            "contentType": "text/plain",
            "body": "hello",
            **changed,
        }
    )


@pytest.fixture
def open_page(chromium, service):
    """A function that opens the page; what its console complains of fails the test."""
    contexts, complaints = [], []

    def opened(width=1280, height=900, url=service.url, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else 0,
        )
        page.goto(f"{url}/_mme/")
        page.wait_for_selector("#connection[data-state=live]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def test_before_there_is_an_endpoint_the_page_says_what_to_do(service, open_page):
    page = open_page(color_scheme="dark")
    page.get_by_role("heading", name="No endpoint yet").wait_for()
    assert f"AWS_ENDPOINT_URL={service.url}" in page.locator("#first-steps").inner_text()
    page.get_by_role("button", name="Invoke", exact=True).click()
    page.locator("#answer-status", has_text="create one first").wait_for()
    shoot(page, "no-endpoint")


class TestWithoutABrowser:
    def test_files_come_with_a_policy_that_allows_nothing_from_elsewhere(self, service):
        answer, body = ask(service, "/_mme/")
        assert answer.status == 200
        assert b"<title>" in body
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        names = re.findall(rb'(?:src|href)="([\w.]+\.\w+)"', body)
        assert len(names) >= 4
        for name in names:
            assert ask(service, f"/_mme/{name.decode()}")[0].status == 200

    def test_no_file_names_an_address_elsewhere(self):
        page = HERE.parents[2] / "packaging/mmekit_local/sagemaker/page/assets"
        texts = "".join(file.read_text() for file in page.iterdir())
        found = set(re.findall(r"https?://[^\s\"'`]+", texts))
        assert found == {"http://www.w3.org/2000/svg"}  # a name, not an address
        assert "innerHTML" not in texts

    def test_the_address_without_its_last_slash_leads_to_the_page(self, service):
        answer, _ = ask(service, "/_mme")
        assert (answer.status, answer.headers["location"]) == (308, "/_mme/")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "nothing-here", 404),
            ("GET", "../routes.py", 404),
            ("POST", "", 405),
            ("GET", "invoke", 405),
            ("POST", "events", 405),
            ("HEAD", "", 200),
        ],
    )
    def test_what_is_not_there_is_refused(self, service, method, path, status):
        answer, body = ask(service, f"/_mme/{path}", method)
        assert answer.status == status
        if method == "HEAD":
            assert body == b""

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.7", ""])
    def test_a_name_that_is_not_this_servers_is_refused(self, service, host):
        for path in ("/_mme/", "/_mme/metrics", "/_mme/events"):
            assert ask(service, path, Host=host)[0].status == 403

    @pytest.mark.parametrize(
        "host", ["[", "[::1", "]:80", "a:b:c", "\xff", "127.0.0.1@evil.example"]
    )
    def test_a_name_that_is_none_is_refused(self, service, host):
        assert ask(service, "/_mme/", Host=host)[0].status == 403

    @pytest.mark.parametrize("path", ["/_mme/", "/models"])
    def test_a_request_with_two_names_is_refused(self, service, path):
        address = urllib.parse.urlsplit(service.url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
            connection.sendall(head.encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 400

    @pytest.mark.parametrize("origin", ["http://[", "[", "://", "\xff"])
    def test_an_origin_that_is_none_is_another_site(self, service, origin):
        kind = {"Content_Type": "application/json"}
        assert ask(service, "/_mme/invoke", "POST", form(), Origin=origin, **kind)[0].status == 403
        assert ask(service, "/_mme/events", Origin=origin)[0].status == 403

    def test_a_number_without_end_is_no_event_s(self, service, endpoint):
        with told(service, Last_Event_ID="9" * 5000) as ((name, _), _):
            assert name == "state"

    @pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "mme.localhost"])
    def test_every_name_of_this_machine_to_itself_is_answered(self, service, host):
        assert ask(service, "/_mme/", Host=host)[0].status == 200

    def test_a_form_without_this_starts_token_is_refused(self, service, endpoint):
        kind = {"Content_Type": "application/json"}
        for token in ({}, {"X_Mme_Token": ""}, {"X_Mme_Token": "another"}):
            for name in ("invoke", "sample"):
                answer, body = ask(service, f"/_mme/{name}", "POST", form(), **kind, **token)
                assert (answer.status, b"reload" in body) == (403, True)

    def test_another_sites_page_can_neither_invoke_nor_listen(self, service, endpoint, token):
        kind = {"Content_Type": "application/json", **token}
        strange = [
            {"Origin": "http://evil.example", **kind},
            {"Origin": "null", **kind},
            {"Origin": service.url.replace("127.0.0.1", "localhost"), **kind},
            {"Sec_Fetch_Site": "cross-site", **kind},
        ]
        for headers in strange:
            assert ask(service, "/_mme/invoke", "POST", form(), **headers)[0].status == 403
        listening = {"Sec_Fetch_Site": "cross-site"}
        assert ask(service, "/_mme/events", **listening)[0].status == 403
        plain = {"Origin": service.url, "Content_Type": "text/plain", **token}
        assert ask(service, "/_mme/invoke", "POST", form(), **plain)[0].status == 415

    def test_the_form_gets_status_time_and_answer(self, service, endpoint, token):
        headers = {"Origin": service.url, "Content_Type": "application/json", **token}
        answer, body = ask(service, "/_mme/invoke", "POST", form(), **headers)
        assert answer.status == 200
        told = json.loads(body)
        assert (told["status"], told["variant"], told["error"]) == (200, "AllTraffic", "")
        assert told["milliseconds"] > 0
        assert json.loads(told["body"])["length"] == 5
        unknown = form(target="nope.tar.gz")
        told = json.loads(ask(service, "/_mme/invoke", "POST", unknown, **headers)[1])
        assert (told["status"], told["error"]) == (400, "ValidationError")

    @pytest.mark.parametrize(
        "body",
        [
            *("", "[]", "{", '{"endpoint": 1}', "7", '"text"', "[" * 100_000, '"\\ud800"'),
            *(form(**{name: value}) for name in ("target", "account") for value in (None, 1, [])),
            *(form(region={}), form(endpoint=7), form(body=None), form(body="\ud800")),
            *(form(contentType=f"a{end}Host: b") for end in ("\r\n", "\n", "\r", "\0")),
            *(form(target=f"a.tar.gz{end}b: c") for end in ("\r\n", "\n", "\r", "\0")),
        ],
    )
    def test_what_the_form_would_not_send_is_refused(self, service, endpoint, token, body):
        headers = {"Content_Type": "application/json", **token}
        assert ask(service, "/_mme/invoke", "POST", body, **headers)[0].status == 400

    @pytest.mark.parametrize(
        ("target", "sample"),
        [
            ("team/sampled.tar.gz", {"contentType": "text/csv", "body": "1,Oslo\n"}),
            ("a.tar.gz", {"contentType": "", "body": ""}),
            ("damaged.tar.gz", {"contentType": "", "body": ""}),
            ("no/such.tar.gz", {"contentType": "", "body": ""}),
        ],
    )
    def test_a_sample_is_that_of_the_archive_loaded_or_not(
        self, service, endpoint, token, target, sample
    ):
        def told():
            headers = {"Content_Type": "application/json", **token}
            answer, body = ask(service, "/_mme/sample", "POST", form(target=target), **headers)
            assert answer.status == 200
            return json.loads(body)

        assert told() == sample
        if target == "team/sampled.tar.gz":
            service.invoke(endpoint, target)
            assert told() == sample

    def test_an_endpoint_that_is_not_there_has_no_sample(self, service, token):
        body, headers = form(endpoint="nobody"), {"Content_Type": "application/json", **token}
        answer, found = ask(service, "/_mme/sample", "POST", body, **headers)
        assert (answer.status, json.loads(found)["body"]) == (200, "")

    def test_events_begin_with_the_state_and_go_on_after_the_last_one_seen(self, service, endpoint):
        def loaded():
            with told(service) as ((name, state), _):
                assert name == "state"
            (shown,) = [one for one in state["endpoints"] if one["name"] == endpoint]
            assert shown["status"] == "InService"
            (variant,) = shown["variants"]
            assert variant["totals"]["invocations"] >= 1
            return [model["target"] for one in variant["instances"] for model in one["models"]]

        service.invoke(endpoint, "a.tar.gz")
        # The instances are looked at twice a second at most: what is told may be that old.
        service.wait_until(lambda: "a.tar.gz" in loaded(), what="a state with the loaded model")
        with told(service) as (_, messages):
            seen = next(members for kind, members in messages if kind == "event")
        with told(service, Last_Event_ID=str(seen["number"])) as (_, messages):
            first = next(members for kind, members in messages if kind == "event")
        assert first["number"] == seen["number"] + 1

    def test_only_so_many_pages_are_told_and_one_that_leaves_makes_room(self, service, endpoint):
        with contextlib.ExitStack() as pages:
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                opened = pool.map(lambda _: pages.enter_context(told(service)), range(16))
                (_, messages), *_ = list(opened)
            assert ask(service, "/_mme/events")[0].status == 503
            messages.close()
            pages.enter_context(told(service))
            assert ask(service, "/_mme/events")[0].status == 503
        with told(service):  # the next page shall not meet those that are leaving
            pass


def test_a_page_that_is_open_does_not_hold_up_the_end_of_the_service(start_service, tmp_path):
    service = start_service(tmp_path)
    with told(service) as (_, messages):
        assert service.stop() == 0
        assert {name for name, _ in messages} <= {"state", "stored", "failures"}  # and it ends
    assert "did not end in time" not in service.log


def listen(service, **headers):
    """Yield (name, members) of server-sent events; closing it leaves."""
    address = urllib.parse.urlsplit(service.url)
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        head = f"GET /_mme/events HTTP/1.1\r\nHost: {address.netloc}\r\n{''.join(lines)}\r\n"
        connection.sendall(head.encode())
        with connection.makefile("rb") as stream:
            name = None
            for raw in stream:
                line = raw.decode().strip()
                if line.startswith("HTTP/1.1 503"):
                    return
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def told(service, **headers):
    """The first message to a page, and `listen` for the others; the page leaves at the end.

    It waits for room: the server may not yet have noticed that pages before this one left. A page
    that stayed because its test failed would take the room of those of other tests.
    """

    def began():
        messages = listen(service, **headers)
        first = next(messages, None)
        return None if first is None else (first, messages)

    first, messages = service.wait_until(began, what="room for one more page")
    with contextlib.closing(messages):
        yield first, messages


def choose(page, target):
    """Type a target model's key and leave the field."""
    page.get_by_label("Target model").fill(target)
    page.get_by_label("Target model").press("Tab")


class TestInChromium:
    def test_loads_evictions_and_errors_appear_while_one_looks(self, service, endpoint, open_page):
        page = open_page()
        page.wait_for_selector("article h2:text-is('shown')")
        service.invoke(endpoint, "b.tar.gz")
        service.invoke(endpoint, "c.tar.gz")
        service.invoke(endpoint, "team/d.tar.gz")  # room for two: one of the others goes
        with pytest.raises(service.client("sagemaker-runtime").exceptions.ModelError):
            service.invoke(endpoint, "team/d.tar.gz", b'{"status": 400}')
        happened = page.locator("#happened li")
        happened.filter(has_text="cold load").filter(has_text="team/d.tar.gz").first.wait_for()
        happened.filter(has_text="eviction").first.wait_for()
        page.locator("#errors li").filter(has_text="400").first.wait_for()
        page.locator(".models .target:text-is('team/d.tar.gz')").wait_for()
        figures = page.locator(".figures").first
        figures.locator("div", has_text="evictions").locator("dd:not(:text-is('0'))").wait_for()
        page.locator("svg path.line.first[d*='M']").first.wait_for(state="attached")
        shoot(page, "endpoint-light")

    def test_a_parked_model_is_shown_as_such(self, service, endpoint, open_page):
        parking = {"since": "2026-01-02T03:04:05.000Z", "wakes": 2}
        service.put("parked.tar.gz", service.echo_archive(parking=parking))
        service.invoke(endpoint, "parked.tar.gz")
        service.invoke(endpoint, "a.tar.gz")
        page = open_page(timezone_id="UTC")

        row = page.locator(".models tbody tr")
        parked = row.filter(has_text="parked.tar.gz").locator(".state[data-state=parked]")
        parked.wait_for()
        assert parked.inner_text() == "parked since 03:04:05, woken 2 times"
        assert "0 B" in row.filter(has_text="parked.tar.gz").inner_text()
        assert row.filter(has_text="a.tar.gz").locator(".state").first.inner_text() == ""
        shoot(page, "parked")

    def test_the_form_invokes_and_tells_of_errors(self, service, endpoint, open_page):
        page = open_page()
        page.get_by_label("Endpoint", exact=True).select_option(label="shown")
        page.get_by_label("Target model").fill("a.tar.gz")
        page.get_by_label("Content type").fill("text/plain")
        page.get_by_label("Body", exact=True).fill("hello")
        page.get_by_role("button", name="Invoke", exact=True).click()
        page.locator("#answer-status[data-mood=good]").wait_for()
        assert page.locator("#answer-status").inner_text().startswith("200 in ")
        assert '"length": 5' in page.locator("#answer-body").inner_text()
        page.get_by_label("Target model").fill("<img src=x onerror=alert(1)>.tar.gz")
        page.get_by_role("button", name="Invoke", exact=True).click()
        page.locator("#answer-status", has_text="400 ValidationError").wait_for()
        page.locator("#errors li", has_text="<img src=x").first.wait_for()
        assert page.locator("#errors img").count() == 0
        shoot(page, "invoked")

    def test_the_form_has_a_request_that_the_chosen_model_answers(
        self, service, endpoint, open_page
    ):
        from playwright.sync_api import expect

        page = open_page()
        page.get_by_label("Endpoint", exact=True).select_option(label="shown")
        body, kind = (page.get_by_label(name, exact=True) for name in ("Body", "Content type"))
        choose(page, "team/sampled.tar.gz")
        expect(body).to_have_value("1,Oslo\n", timeout=60_000)
        assert kind.input_value() == "text/csv"
        choose(page, "signed.tar.gz")
        expect(body).to_have_value(re.compile("city"), timeout=60_000)
        assert json.loads(body.input_value()) == {"instances": [{"city": "Oslo"}]}
        assert kind.input_value() == "application/json"
        choose(page, "team/sampled.tar.gz")
        expect(kind).to_have_value("text/csv", timeout=60_000)
        choose(page, "a.tar.gz")  # which has none, and the other's type is not its own
        expect(page.locator("#invoke-sample")).to_contain_text("no sample", timeout=60_000)
        assert (body.input_value(), kind.input_value()) == ("", "application/json")
        body.fill("mine")
        with page.expect_response("**/sample"):
            choose(page, "team/sampled.tar.gz")
        choose(page, "a.tar.gz")
        page.get_by_role("button", name="Invoke", exact=True).click()
        page.locator("#answer-status[data-mood=good]").wait_for()
        assert body.input_value() == "mine"

    def test_a_phone_shows_all_of_it_without_scrolling_sideways(self, endpoint, open_page):
        page = open_page(360, 740, device_scale_factor=2, has_touch=True)
        page.wait_for_selector("article .figures")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        shoot(page, "endpoint-phone")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_its_ground(self, endpoint, open_page, scheme):
        page = open_page(color_scheme=scheme)
        page.wait_for_selector("article .figures")
        assert page.evaluate((HERE / "contrast.js").read_text()) == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
        assert (brightness < 60) == (scheme == "dark")
        shoot(page, f"endpoint-{scheme}")

    def test_everything_is_reached_by_keyboard_and_seen_to_be(self, service, endpoint, open_page):
        service.invoke(endpoint, "a.tar.gz")
        page = open_page()
        page.wait_for_selector(".models tbody tr")
        reached, names = [], set()
        for _ in range(60):
            page.keyboard.press("Tab")
            focus = page.evaluate(
                """() => {
                  const node = document.activeElement;
                  const style = getComputedStyle(node);
                  if (node === document.body) return ["BODY", true];
                  return [node.id || node.textContent.trim().slice(0, 30) || node.tagName,
                    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
                }"""
            )
            if focus[0] in names and "Prometheus metrics" in names:
                break
            names.add(focus[0])
            reached.append(focus)
        assert reached[0][0] == "Skip to the endpoints"
        assert {"invoke-endpoint", "invoke-target", "invoke-type", "invoke-body"} <= names
        assert {"Invoke", "Memory", "Requests", "Prometheus metrics"} <= names
        assert [name for name, seen in reached if not seen] == []
        page.get_by_role("button", name="Requests").focus()
        page.keyboard.press("Enter")
        head = page.get_by_role("columnheader", name="Requests")
        assert head.get_attribute("aria-sort") == "ascending"
        assert page.get_by_role("main").count() == 1
        assert page.get_by_role("banner").count() == 1

    def test_a_page_that_lost_the_server_comes_back_and_misses_nothing(
        self, service, endpoint, chromium
    ):
        with cable(urllib.parse.urlsplit(service.url).port) as (port, cut):
            page = chromium.new_page()
            page.set_default_timeout(60_000)
            try:
                page.goto(f"http://localhost:{port}/_mme/")
                page.wait_for_selector("#connection[data-state=live]")
                page.evaluate(
                    """() => {
                      window.said = [];
                      const node = document.getElementById("connection");
                      new MutationObserver(() => window.said.push(node.dataset.state))
                        .observe(node, {attributes: true});
                    }"""
                )
                cut()
                with pytest.raises(service.client("sagemaker-runtime").exceptions.ClientError):
                    service.invoke(endpoint, "meanwhile.tar.gz")
                missed = page.locator("#errors li", has_text="meanwhile.tar.gz")
                missed.wait_for()
                assert page.evaluate("window.said").count("lost") >= 1
                page.wait_for_selector("#connection[data-state=live]")
                assert missed.count() == 1
            finally:
                page.close()


@contextlib.contextmanager
def cable(service_port):
    """A port that leads to the service, and a function that cuts every connection through it."""
    ends = []

    def carry(source, sink):
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", service_port))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    def cut():
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1], cut
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(60)
            cut()
            for end in ends:
                end.close()
