"""What loads are made of and read off with: distributions, profiles, histograms, signatures."""

import datetime as dt
import hashlib
import itertools

import numpy as np
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from mmekit.errors import MmekitError
from mmekit_bench.histogram import DurationCounter, Histogram
from mmekit_bench.requests import Signer
from mmekit_bench.traffic import Profile, picks, weights


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ("one", [1, 0, 0, 0]),
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
        ("hot", [0.9, 1 / 30, 1 / 30, 1 / 30]),
        ("top-2", [0.5, 0.5, 0, 0]),
        ("top-9", [0.25, 0.25, 0.25, 0.25]),
        ("zipf", [0.48, 0.24, 0.16, 0.12]),
    ],
)
def test_requests_spread_over_targets_as_the_distribution_says(distribution, expected):
    shares = weights(distribution, 4)
    assert shares == pytest.approx(expected)

    drawn = np.bincount(list(itertools.islice(picks(shares, seed=7), 20_000)), minlength=4)
    assert drawn / 20_000 == pytest.approx(expected, abs=0.02)


def test_the_same_seed_asks_for_the_same_targets():
    one, same, other = (
        list(itertools.islice(picks(weights("zipf", 50), seed), 9000)) for seed in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.parametrize("distribution", ["", "normal", "top-0", "top-", "TOP-3"])
def test_a_distribution_that_is_none_is_told_with_those_there_are(distribution):
    with pytest.raises(MmekitError, match="no distribution") as raised:
        weights(distribution, 3)
    assert "zipf" in raised.value.remedy


def up_to(profile, end, *, start=0.0, poisson=False):
    arrivals = profile.arrivals(poisson=poisson, seed=1, start=start)
    return list(itertools.takewhile(lambda moment: moment <= end, arrivals))


def test_requests_of_a_steady_load_are_due_at_even_steps():
    moments = up_to(Profile.of(100, 10), 1.0 + 1e-6)
    assert moments == pytest.approx(np.arange(1, 101) / 100)


@pytest.mark.parametrize(
    ("ramp", "spike", "expected"),
    [
        ("0:100", None, 500),
        ("100:0", None, 500),
        (None, "10@2+3", 7 * 50 + 3 * 500),
        ("0:100", "2x@0+5", 500 + 125),
        (None, "4@8+20", 8 * 50 + 2 * 200),
    ],
)
@pytest.mark.parametrize("poisson", [False, True])
def test_ramps_and_spikes_make_as_many_requests_due_as_they_say(ramp, spike, expected, poisson):
    profile = Profile.of(50, 10, ramp, spike)
    count = len(up_to(profile, 10, poisson=poisson))
    # The deviation of a Poisson process is the root of its mean.
    assert count == pytest.approx(expected, abs=1 + poisson * 4 * expected**0.5)


def test_random_arrivals_are_the_same_for_the_same_seed():
    profile = Profile.of(50, 10)
    one, same, other = (
        list(itertools.islice(profile.arrivals(poisson=True, seed=seed, start=0.0), 100))
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_requests_of_a_warm_up_are_due_before_the_load_begins():
    moments = up_to(Profile.of(10, 5, "20:40"), 0.0, start=-2.0)
    assert len(moments) == pytest.approx(40, abs=1)


def test_the_highest_level_is_what_connections_are_opened_for():
    assert Profile.of(8, 10).highest == 8
    assert Profile.of(8, 10, "1:32").highest == 32
    assert Profile.of(8, 10, "32:1").highest == 32
    assert Profile.of(8, 10, None, "3@2+1").highest == 24
    assert Profile.of(8, 10, None, "0.5@2+1").highest == 8
    assert Profile.of(8, 10, "0:10", "2@4+2").highest == pytest.approx(12)


@pytest.mark.parametrize(
    ("ramp", "spike"), [("1", None), ("a:b", None), ("0:0", None), (None, "10@5"), (None, "x")]
)
def test_a_profile_that_cannot_be_read_is_told_with_the_form(ramp, spike):
    with pytest.raises(MmekitError) as raised:
        Profile.of(1, 10, ramp, spike)
    assert raised.value.remedy


def test_percentiles_of_a_histogram_are_those_of_the_durations():
    seconds = np.random.default_rng(5).lognormal(-6, 1.5, 50_000)
    counter = DurationCounter()
    for part in np.array_split(seconds, 7):
        counter.add(part)
    histogram = counter.result()

    assert histogram.count == seconds.size
    assert histogram.mean_ms == pytest.approx(seconds.mean() * 1e3)
    assert histogram.least_ms == pytest.approx(seconds.min() * 1e3)
    assert histogram.percentile(100) == pytest.approx(seconds.max() * 1e3)
    for percent in (1, 50, 90, 99, 99.9, 99.99):
        exact = np.sort(seconds)[round(seconds.size * percent / 100) - 1] * 1e3
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.002)


def test_a_histogram_without_durations_says_zero():
    assert Histogram().count == 0
    assert Histogram().percentile(99) == 0
    assert DurationCounter().result() == Histogram()


@pytest.mark.parametrize("token", [None, "a-session-token/with=signs"])
@pytest.mark.parametrize("target", ["ridge.tar.gz", "team a/  b.tar.gz"])
def test_signatures_are_those_of_botocore(monkeypatch, token, target):
    body = b'{"instances": [[1.0]]}'
    host, path = "runtime.sagemaker.eu-central-1.amazonaws.com", "/endpoints/m-1/invocations"
    headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Target-Model": target}
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", token)
    moment = 1_790_000_000.0

    signer = Signer(credentials, "eu-central-1", host)
    for _ in range(2):  # the second time with the key that was kept
        ours = signer.sign(path, headers, hashlib.sha256(body).hexdigest(), moment)

    now = dt.datetime.fromtimestamp(moment, dt.timezone.utc)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    request = AWSRequest("POST", f"https://{host}{path}", headers, body)
    SigV4Auth(credentials, "sagemaker", "eu-central-1").add_auth(request)
    assert ours == {name: request.headers[name] for name in ours}
    assert ("X-Amz-Security-Token" in ours) is (token is not None)
