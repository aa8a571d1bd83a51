"""What an endpoint costs: by AWS's price list for an account of AWS's, else by what is on file."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from mmekit.deploy import cost_of
from mmekit.settings import Settings

TYPE = "ml.m5.xlarge"


def product(usage_type, usd):
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
    attributes = {"usagetype": usage_type, "regionCode": "eu-central-1"}
    terms = {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}
    return json.dumps({"product": {"attributes": attributes}, "terms": terms})


@contextlib.contextmanager
def price_list(status, content):
    """Answer every request on loopback in the same way, and keep what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


@pytest.fixture
def account(monkeypatch):
    """Return an account of AWS's in eu-central-1, with credentials that open nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("MME_TARGET", "aws")
    settings = Settings(region="eu-central-1", role="arn:aws:iam::123456789012:role/mme")
    return SimpleNamespace(settings=settings, region="eu-central-1", is_real=True, partition="aws")


def test_the_price_list_tells_what_an_endpoints_instance_costs_today(account, monkeypatch):
    prices = [
        product(f"EUC1-Train:{TYPE}", "0.999"),
        product(f"EUC1-Host:{TYPE}", "0.2760000000"),
        product(f"EUC1-AsyncInf-Host:{TYPE}.large", "0.111"),
    ]
    with price_list(200, {"FormatVersion": "aws_v1", "PriceList": prices}) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", url)
        cost = cost_of("eu-central-1", TYPE, instances=2, models=3, account=account)
    assert (str(cost.hour), str(cost.hour_of_single_endpoints)) == ("0.552", "0.828")
    assert cost.lines()[-1] == f"  price of {cost.price.seen} by AWS Price List"
    assert {one["Field"]: one["Value"] for one in asked[0]["Filters"]} == {
        "regionCode": "eu-central-1",
        "instanceName": TYPE,
    }


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, {"__type": "AccessDeniedException", "message": "not allowed"}),
        (200, {"FormatVersion": "aws_v1", "PriceList": []}),
        (200, {"PriceList": [product(f"EUW1-Host:{TYPE}", usd) for usd in ("0.1", "0.2")]}),
    ],
    ids=["no permission", "no such instance", "two prices"],
)
def test_what_the_price_list_does_not_tell_is_taken_from_the_file(
    account, monkeypatch, status, content
):
    account.region = "eu-west-1"
    with price_list(status, content) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", url)
        cost = cost_of("eu-west-1", TYPE, instances=1, models=1, account=account)
    assert asked
    assert (str(cost.hour), str(cost.price.seen)) == ("0.257", "2023-12-31")


def test_the_local_service_is_not_asked_for_prices(account, monkeypatch):
    account.is_real = False
    account.region = "us-east-1"
    with price_list(500, {}) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", url)
        cost = cost_of("us-east-1", TYPE, instances=1, models=1, account=account)
    assert not asked
    assert str(cost.hour) == "0.23"
