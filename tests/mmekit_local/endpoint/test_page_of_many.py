"""The page with twenty-five endpoints: their table, the filter, what is in S3 alone, staleness.

Feed, page, server and browser are the real ones; the endpoints are made up, as that many containers
would take minutes.
"""

import asyncio
import contextlib
import json
import pathlib
import re
import socket
import threading
import urllib.request

import pytest

from mmekit_local.http import HttpServer
from mmekit_local.http.messages import Responder
from mmekit_local.sagemaker.api import ApiRequest, response_of
from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
from mmekit_local.sagemaker.page.routes import PageRoutes
from mmekit_local.sagemaker.snapshot import (
    EndpointStatus,
    FleetSnapshot,
    InstanceSnapshot,
    ModelSnapshot,
    ParkingSnapshot,
    VariantSnapshot,
)
from mmekit_local.sagemaker.specification import EndpointId

HERE = pathlib.Path(__file__).parent
SHOTS = HERE.parents[2] / "build" / "screenshots"
MIB = 1 << 20


class MadeUp:
    """An endpoint with twelve loaded models, every third of them parked."""

    def __init__(self, number):
        self.id = EndpointId("123456789012", "us-east-1", f"shop-{number:02}")
        self.number = number

    def snapshot(self):
        models = tuple(
            ModelSnapshot(
                f"region-{self.number:02}-{n:02}.tar.gz",
                "loaded",
                3 * MIB,
                0 if n % 3 == 0 else (6 + n) * MIB,
                100.0 * n,
                7.0 * n,
                0,
                40 * n,
                ParkingSnapshot(1.7e9 if n % 3 == 0 else None, n % 2),
            )
            for n in range(12)
        )
        instance = InstanceSnapshot(
            *(f"{self.id.name}/AllTraffic/1", "in service", 1, 8 << 30, 300 * MIB, 30 << 30),
            *(36 * MIB, 1.5, 0, models),
        )
        variant = VariantSnapshot(
            "AllTraffic", 1.0, True, "ml.m6i.large", (instance,), "s3://models/"
        )
        return FleetSnapshot(self.id.name, self.id.name, (variant,))


class Many:
    """A server of the page in a thread, with so many endpoints."""

    def __init__(self, count):
        self.fleets = {one.id: one for one in map(MadeUp, range(count))}
        self.log = EventLog()
        self.ids = list(self.fleets)
        metrics = Metrics(None)
        for one in self.ids:
            metrics.variant(one, "AllTraffic")
        self.monitor = EndpointMonitor(self.fleets, metrics)
        self.page = PageRoutes(self.monitor, self.log, self.statuses, None, self.keys)
        self.is_silent = False
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),))

    def statuses(self):
        return tuple(EndpointStatus(one, one.name, "InService", None) for one in self.ids)

    def keys(self, account, region, place):
        return [f"region-{n:02}-{m:02}.tar.gz" for n in range(2) for m in range(10, 15)]

    async def answer(self, request):
        path, _, query = request.target.encode("latin-1").partition(b"?")
        headers = [(name.lower(), value) for name, value in request.headers]
        asked = ApiRequest(request.method, path, query, headers, tuple(request.pieces))
        return response_of(await self.page.answer(asked))

    async def serve(self):
        self.end = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        server = HttpServer(Responder(self.answer, lambda *_: None))
        await server.start(listener)
        self.started.set()
        while not self.end.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.end.wait(), 0.2)
            if not self.is_silent:
                self.monitor.tick()
        self.page.close()
        await server.close(2)

    def do(self, action):
        """Do something where the server runs."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (action(), done.set()))
        assert done.wait(60)

    def fail(self, number, text, target="", status=500):
        log = self.log.of(self.ids[number])
        name = f"shop-{number:02}"
        self.do(lambda: log.record("error", name, text, target=target, status=status))

    @contextlib.contextmanager
    def running(self):
        self.thread.start()
        assert self.started.wait(60)
        try:
            yield self
        finally:
            self.loop.call_soon_threadsafe(self.end.set)
            self.thread.join(60)
            self.loop.close()


@pytest.fixture(scope="module")
def many():
    with Many(25).running() as server:
        yield server


@pytest.fixture
def open_page(chromium, many):
    contexts = []

    def opened(width=1280, height=900, *, has_clock=False, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        if has_clock:
            page.clock.install()
        page.goto(f"http://127.0.0.1:{many.port}/_mme/")
        page.wait_for_selector("#connection[data-state=live]")
        page.wait_for_selector(".overview tbody tr")
        return page

    yield opened
    for context in contexts:
        context.close()


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def test_many_endpoints_are_a_table_of_which_one_unfolds_what_one_wants(open_page):
    page = open_page()
    assert page.locator(".overview tbody tr").count() == 25
    assert page.locator("main article").count() == 0
    told = page.locator("#overview-count")
    assert told.inner_text() == "25 endpoints, 300 models in memory, 250 in S3"
    row = page.locator(".overview tr", has_text="shop-07")
    assert "12, 4 parked" in row.inner_text()
    shoot(page, "many")

    row.get_by_role("button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("article h2:text-is('shop-07')")
    assert row.get_by_role("button").get_attribute("aria-expanded") == "true"
    assert page.locator("article .models tbody tr").count() == 12
    page.get_by_role("button", name="Fold shop-07").click()
    assert page.locator("main article").count() == 0


def test_the_filter_finds_endpoints_and_models(open_page):
    page = open_page()
    box = page.get_by_role("searchbox")
    box.fill("SHOP-1")
    assert page.locator(".overview tbody tr").count() == 10
    assert page.locator("#overview-count").inner_text().startswith("10 of 25 endpoints")
    box.fill("region-03-0")
    page.wait_for_selector("article h2:text-is('shop-03')")  # one alone is unfolded
    assert page.locator(".overview tbody tr").count() == 1
    assert "10 models match" in page.locator(".overview tbody tr").inner_text()
    assert page.locator("article .models tbody tr").count() == 10
    box.fill("nothing is called so")
    assert page.locator(".overview tbody tr").count() == 0


def test_models_in_s3_that_are_not_in_memory_are_listed_and_go_into_the_form(open_page):
    page = open_page()
    page.get_by_role("searchbox").fill("region-01-14")
    page.get_by_role("button", name="shop-01", exact=True).click()
    resting = page.locator("article details.variant")
    assert resting.locator("summary").inner_text() == "In S3 and not in memory: 1"
    resting.locator("summary").click()
    resting.get_by_role("button", name="region-01-14.tar.gz").click()
    assert page.get_by_label("Target model").input_value() == "region-01-14.tar.gz"
    assert page.get_by_label("Endpoint", exact=True).input_value().endswith("/shop-01")


def test_errors_are_counted_by_cause_and_stay_however_much_happens_after(many, open_page):
    for row in range(98):
        many.fail(4, f"ModelError: 400 row {row}: no number", "region-04-01.tar.gz", 400)
    many.fail(5, "ModelError: 500 out of luck", "region-05-02.tar.gz")
    for _ in range(600):  # more than the events that are kept
        many.do(lambda: many.log.record("cold load", "shop-09", "loaded"))

    page = open_page()
    cause = page.locator("#errors li", has_text="row <n>: no number")
    cause.wait_for()
    assert "98 times since" in cause.inner_text()
    assert not page.locator("#no-errors").is_visible()
    many.fail(4, "ModelError: 400 row 98: no number", "region-04-07.tar.gz", 400)
    page.locator("#errors li", has_text="99 times since").wait_for()
    assert "and another model" in cause.inner_text()
    cause.get_by_text("the latest").click()
    assert "row 98: no number" in cause.inner_text()
    page.get_by_role("searchbox").fill("shop-05")
    page.locator("#errors li", has_text="out of luck").wait_for()
    assert page.locator("#errors li").count() == 1
    shoot(page, "errors")


def test_what_is_shown_is_dimmed_while_the_server_says_nothing_and_comes_back(many, open_page):
    page = open_page(has_clock=True)
    try:
        many.do(lambda: setattr(many, "is_silent", True))
        # A message may have been on its way when it fell silent.
        while not page.locator("#connection[data-state=lost]").count():
            page.clock.fast_forward(7000)
        stale = page.locator("#stale")
        assert re.search(r"how it was at \d\d:\d\d:\d\d", stale.inner_text())
        assert float(page.evaluate("getComputedStyle(document.querySelector('main')).opacity")) < 1
        shoot(page, "stale")
    finally:
        many.do(lambda: setattr(many, "is_silent", False))
    page.wait_for_selector("#connection[data-state=live]")
    assert not stale.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('main')).opacity") == "1"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_it_fits_a_phone_and_stands_out_from_its_ground(open_page, scheme):
    page = open_page(360, 740, has_touch=True, color_scheme=scheme)
    page.get_by_role("button", name="shop-02", exact=True).click()
    page.wait_for_selector("article .figures")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate((HERE / "contrast.js").read_text()) == []
    shoot(page, f"many-phone-{scheme}")


def test_what_is_told_each_second_stays_small(many):
    with urllib.request.urlopen(
        f"http://127.0.0.1:{many.port}/_mme/events", timeout=60
    ) as messages:
        sizes = []
        for raw in messages:
            line = raw.decode()
            if line.startswith("data: ") and "endpoints" in json.loads(line[6:]):
                sizes.append(len(line))
            if len(sizes) == 4:
                break
    greeting, _, _, second = sizes
    assert greeting > second
    assert second < 100_000
