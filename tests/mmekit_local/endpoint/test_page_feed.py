"""The events that the page listens to."""

import asyncio
import json

from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
from mmekit_local.sagemaker.page.feed import Feed


def feed_of(event_log):
    return Feed(EndpointMonitor({}, Metrics(None)), event_log, tuple)


def numbers(piece):
    return [int(line[4:]) for line in piece.decode().splitlines() if line.startswith("id: ")]


def test_a_page_that_does_not_read_is_let_go_and_told_everything_when_it_comes_again():
    async def main():
        event_log = EventLog()
        feed = feed_of(event_log)
        pages = [feed.stream(None) for _ in range(16)]
        for page in pages:
            await page.__anext__()
        assert feed.is_full
        for number in range(100):
            event_log.record("error", "e", f"{number}")
        assert not feed.is_full
        assert [piece async for piece in pages[0]] == []
        greeting = await feed.stream(b"40").__anext__()
        assert numbers(greeting) == list(range(41, 101))

    asyncio.run(main())


def test_numbers_of_a_server_that_ran_here_before_mean_nothing():
    async def main():
        event_log = EventLog()
        event_log.record("endpoint", "e", "in service")
        assert numbers(await feed_of(event_log).stream(b"977").__anext__()) == [1]

    asyncio.run(main())


def test_each_second_the_state_is_told():
    async def main():
        monitor = EndpointMonitor({}, Metrics(None))
        page = Feed(monitor, EventLog(), tuple).stream(None)
        await page.__anext__()
        monitor.tick()
        name, data, *_ = (await page.__anext__()).decode().splitlines()
        assert name == "event: state"
        assert json.loads(data.removeprefix("data: "))["endpoints"] == []
        await page.aclose()

    asyncio.run(main())
