"""Jobs."""

import asyncio

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._jobs import ConstantFailurePolicy, DropFailurePolicy, Job
from google.protobuf.any_pb2 import Any
from google.protobuf.struct_pb2 import Value
from grpc import StatusCode
from report import Inbox, check, equal, eventually, fails

sweeps, flaky, dropped = Inbox(), Inbox(), Inbox()


def listen(app) -> None:
    app.job('sweep', sweeps.put)

    def fail_first(inbox):
        attempts = iter(range(1, 1000))

        def handle(_):
            attempt = next(attempts)
            inbox.put(attempt)
            if attempt < 3:
                raise RuntimeError('not yet')

        return handle

    app.job('flaky', fail_first(flaky))
    app.job('dropped', fail_first(dropped))


def checks(client, app) -> None:
    payload = Any(type_url='example.com/chore', value=b'under the bed')

    def missing(name) -> bool:
        try:
            client.get_job(name)
        except Exception:
            return True
        return False

    @check('jobs: one is scheduled, read, replaced and deleted')
    def _():
        policy = ConstantFailurePolicy(max_retries=4, interval_seconds=2)
        client.schedule_job(Job('dust', schedule='@daily', repeats=2, ttl='48h', data=payload, failure_policy=policy))
        got = client.get_job('dust')
        equal([got.name, got.schedule, got.repeats, got.data], ['dust', '@daily', 2, payload])
        equal([got.failure_policy.max_retries, got.failure_policy.interval_seconds], [4, 2], 'failure policy')
        again = fails(lambda: client.schedule_job(Job('dust', due_time='1h')))
        equal(again.code(), StatusCode.ALREADY_EXISTS, 'code')
        client.schedule_job(Job('dust', schedule='0 30 4 * * *', failure_policy=DropFailurePolicy()), overwrite=True)
        got = client.get_job_alpha1('dust')
        equal([got.schedule, type(got.failure_policy)], ['0 30 4 * * *', DropFailurePolicy])
        client.delete_job('dust')
        equal(missing('dust'), True, 'gone')

    @check('jobs: a bad one is refused')
    def _():
        equal(fails(lambda: client.schedule_job(Job('dust', due_time='later'))).code(), StatusCode.INVALID_ARGUMENT, 'code')

    @check('jobs: a schedule calls the application as often as it says')
    def _():
        client.schedule_job(Job('sweep', schedule='@every 100ms', repeats=2, data=payload))
        for _ in range(2):
            equal(sweeps.take(), b'under the bed')
        eventually(lambda: missing('sweep'), True, 'the job is over')

    @check('jobs: at its due time one calls the application once')
    def _():
        value = Any()
        value.Pack(Value(string_value='once'))
        client.schedule_job(Job('sweep', due_time='100ms', data=value))
        got = sweeps.take()
        if app.http:
            equal(got, b'"once"')
        else:
            equal(Value.FromString(got).string_value, 'once')
        eventually(lambda: missing('sweep'), True, 'the job is over')

    @check('jobs: one that fails is triggered again, or dropped, as its policy says')
    def _():
        client.schedule_job(Job('flaky', due_time='10ms', failure_policy=ConstantFailurePolicy(5, 1)))
        client.schedule_job(Job('dropped', due_time='10ms', failure_policy=DropFailurePolicy()))
        equal([flaky.take(), flaky.take(), flaky.take()], [1, 2, 3], 'attempts')
        equal(dropped.take(), 1, 'attempt')
        eventually(lambda: missing('dropped'), True, 'the job is over')
        equal(dropped.qsize(), 0, 'more attempts')

    @check('jobs: the asynchronous client does the same')
    def _():
        async def schedule():
            async with AsyncClient() as client:
                await client.schedule_job(Job('async', due_time='1h', data=payload))
                got = await client.get_job('async')
                await client.delete_job('async')
                return [got.name, got.due_time != '', got.data]

        equal(asyncio.run(schedule()), ['async', True, payload])
        equal(missing('async'), True, 'gone')
