"""Runs a test with both clients: each function takes `kind`, `sync` or `aio`."""

from __future__ import annotations

import asyncio
import atexit
from typing import Any, Callable, Coroutine, Iterable

import headswap
from headswap import RetryPolicy, StreamAnswer

KINDS = ("sync", "aio")
# Retries at once, so that no test waits.
AT_ONCE = RetryPolicy(initial_s=0.0, backoff_s_max=0.0)

# One for all tests: grpc.aio complains of events of loops that are closed.
_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, in the loop of all tests."""
    return _LOOP.run_until_complete(coroutine)


def call(kind: str, address: str, name: str, *args: Any, retry: RetryPolicy | None = None, admin: str = "", **options: Any) -> Any:
    """Calls a method of a client of its own."""
    if kind == "sync":
        with headswap.Client(address, admin or address, retry=retry) as client:
            return getattr(client, name)(*args, **options)

    async def run() -> Any:
        async with headswap.AsyncClient(address, admin or address, retry=retry) as client:
            return await getattr(client, name)(*args, **options)

    return run_async(run())


def stream(
    kind: str,
    address: str,
    images: Iterable[Any],
    heads: Any = (),
    *,
    told: Callable[[StreamAnswer[Any]], None] | None = None,
    retry: RetryPolicy | None = None,
    later: bool = False,
    **options: Any,
) -> list[StreamAnswer[Any]]:
    """Returns the answers of a stream. `told` is called with each; `later` makes the source asynchronous."""
    answers: list[StreamAnswer[Any]] = []

    def take(answer: StreamAnswer[Any]) -> None:
        answers.append(answer)
        if told is not None:
            told(answer)

    if kind == "sync":
        with headswap.Client(address, retry=retry) as client:
            for answer in client.classify_stream(images, heads, **options):
                take(answer)
        return answers

    async def source() -> Any:
        for image in images:
            await asyncio.sleep(0)
            yield image

    async def run() -> None:
        async with headswap.AsyncClient(address, retry=retry) as client:
            async for answer in client.classify_stream(source() if later else images, heads, **options):
                take(answer)

    run_async(run())
    return answers
