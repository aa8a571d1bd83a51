"""The events that the page listens to."""

import asyncio
import json

from mmekit_local.sagemaker.journal import Journal
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.observability.watch import Watch
from mmekit_local.sagemaker.page.feed import Feed


def feed_of(journal):
    return Feed(Watch({}, Metrics(None)), journal, tuple)


def numbers(piece):
    return [int(line[4:]) for line in piece.decode().splitlines() if line.startswith("id: ")]


def test_a_page_that_does_not_read_is_let_go_and_told_everything_when_it_comes_again():
    async def main():
        journal = Journal()
        feed = feed_of(journal)
        pages = [feed.stream(None) for _ in range(16)]
        for page in pages:
            await page.__anext__()
        assert feed.is_full
        for number in range(100):
            journal.record("error", "e", f"{number}")
        assert not feed.is_full
        assert [piece async for piece in pages[0]] == []
        greeting = await feed.stream(b"40").__anext__()
        assert numbers(greeting) == list(range(41, 101))

    asyncio.run(main())


def test_numbers_of_a_server_that_ran_here_before_mean_nothing():
    async def main():
        journal = Journal()
        journal.record("endpoint", "e", "in service")
        assert numbers(await feed_of(journal).stream(b"977").__anext__()) == [1]

    asyncio.run(main())


def test_each_second_the_state_is_told():
    async def main():
        watch = Watch({}, Metrics(None))
        page = Feed(watch, Journal(), tuple).stream(None)
        await page.__anext__()
        watch.tick()
        name, data, *_ = (await page.__anext__()).decode().splitlines()
        assert name == "event: state"
        assert json.loads(data.removeprefix("data: "))["endpoints"] == []
        await page.aclose()

    asyncio.run(main())
