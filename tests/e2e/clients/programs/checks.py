"""What every program here does: run its checks one after the other and say of each how it went, as lines of JSON."""

import asyncio
import inspect
import json
import sys
import traceback

HTTP, GRPC = sys.argv[1:3]
_checks = []


def check(function):
    """A function that raises when something is not as it should be."""
    _checks.append(function)
    return function


def run(make_client):
    """Run all checks, each with a client of its own; `make_client` may be a coroutine function's result."""
    asyncio.run(_run(make_client))


async def _run(make_client):
    for function in _checks:
        error = None
        try:
            client = make_client()
            result = function(client)
            if inspect.isawaitable(result):
                await result
            closed = client.close() if hasattr(client, "close") else None
            if inspect.isawaitable(closed):
                await closed
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"check": function.__name__, "error": error}), flush=True)


def refused(call, kind=Exception):
    """The error that a call raises; it must raise one."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("it was not refused")


async def refused_later(call, kind=Exception):
    """The same for what is awaited."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError("it was not refused")
