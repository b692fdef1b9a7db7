"""Metadata."""

import asyncio
import json
import os

from dapr.aio.clients import DaprClient as AsyncClient
from report import check, equal


def checks(client, _) -> None:
    @check('metadata: it says who this is and what there is')
    def _():
        got = client.get_metadata()
        equal(got.application_id, os.environ['APP_ID'])
        want = json.loads(os.environ['INTEROP_COMPONENTS'])
        equal({c.name: c.type for c in got.registered_components if c.name in want}, want)
        capabilities = {c.name: set(c.capabilities) for c in got.registered_components}['statestore']
        equal({'ETAG', 'TRANSACTIONAL', 'TTL', 'QUERY_API'} - capabilities, set(), 'capabilities that are missing')

    @check('metadata: what the application sets is there')
    def _():
        client.set_metadata('interop', 'was here')
        equal(client.get_metadata().extended_metadata['interop'], 'was here')

    @check('metadata: the asynchronous client does the same')
    def _():
        async def note():
            async with AsyncClient() as client:
                await client.wait(10)
                await client.set_metadata('interop', 'was here again')
                return (await client.get_metadata()).extended_metadata['interop']

        equal(asyncio.run(note()), 'was here again')
