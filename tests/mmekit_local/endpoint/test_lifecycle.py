"""What is done to endpoints, without any."""

import asyncio
import threading
import types

from mmekit_local.sagemaker.control.hosted_endpoint import HostedEndpoint
from mmekit_local.sagemaker.control.lifecycle import EndpointLifecycle
from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.specification import EndpointId

ENDPOINT = EndpointId("123456789012", "us-east-1", "e")


def test_a_disk_that_takes_its_time_holds_up_nobody_but_the_change_that_is_written_down():
    async def main():
        written, changes = threading.Event(), []

        def note(change):
            written.wait(60)
            changes.append(change)

        lifecycle = EndpointLifecycle(0.0, None, EventLog(), note, Metrics(None), 60.0)
        record = types.SimpleNamespace(endpoint_config_name="c", endpoint_status="Updating")
        refusing = asyncio.ensure_future(
            lifecycle.reject_update(ENDPOINT, HostedEndpoint(record, None), "why")
        )
        for _ in range(10):
            await asyncio.sleep(0)
        assert (record.endpoint_status, changes) == ("Updating", [])
        written.set()
        await refusing
        assert record.endpoint_status == "InService"
        assert changes == [{"endpoint": ENDPOINT, "reason": "why"}]

    asyncio.run(main())
