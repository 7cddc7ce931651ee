"""Parsing in other processes: the event loop never stalls, and a parser that hangs is killed.

Small inputs are parsed in a thread: a process takes longer to start than they take to parse.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from multiprocessing.connection import Connection
from typing import Any, Final

from newsloom.core.documents import Document, Prepared, Rules, prepare
from newsloom.errors import Rejected, RejectReason

_SMALL_DOCUMENTS: Final = 500
_SMALL_BYTES: Final = 2 * 1024 * 1024
_MAX_WORKERS: Final = 8
_CHUNKS_AHEAD: Final = 2
_JOIN_SECONDS: Final = 2.0
# A worker's first answer also waits for its interpreter and its imports.
_START_SECONDS: Final = 30.0

Prepare = Callable[[Document, Rules], Prepared]


class ParseWorker:
    """A process, and the half here that talks to it. Not for use by two threads at once."""

    def __init__(
        self, rules: Rules, timeout_seconds: float, prepare_one: Prepare = prepare
    ) -> None:
        self._rules = rules
        self._timeout_seconds = timeout_seconds
        self._prepare = prepare_one
        self._process: Any = None
        self._connection: Any = None
        self._warm = False
        self._closed = False

    def parse(self, documents: Sequence[Document]) -> list[Prepared]:
        """Prepare documents in order. One that hangs or kills its process is `parse.timeout`."""
        results = self._ask(documents)
        if results is not None:
            return results
        if len(documents) == 1:
            detail = f"not parsed within {self._timeout_seconds:g} seconds"
            rejected = Rejected(RejectReason.PARSE_TIMEOUT, detail)
            return [Prepared(documents[0].path, documents[0].line, rejected=rejected)]
        return [prepared for document in documents for prepared in self.parse([document])]

    def _ask(self, documents: Sequence[Document]) -> list[Prepared] | None:
        """Return the worker's answer; None when there was none, and the worker is gone."""
        if self._closed:
            return None
        if self._process is None:
            self.start()
        patience = self._timeout_seconds + (0 if self._warm else _START_SECONDS)
        try:
            self._connection.send(list(documents))
            if self._connection.poll(patience):
                answer: list[Prepared] = self._connection.recv()
                self._warm = True
                return answer
        except (EOFError, OSError):
            pass
        self._kill()
        return None

    def start(self) -> None:
        """Start the process, and do not wait until it is ready. Asking does it too, if need be."""
        # Neither fork, which copies a process that has threads, nor anything inherited by it.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._rules, self._prepare), daemon=True, name="parse"
        )
        self._process.start()
        theirs.close()
        self._warm = False
        if self._closed:  # meanwhile, by somebody who could not know of this process yet
            self._kill()

    def close(self) -> None:
        """End the process for good, whatever it is doing."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join(_JOIN_SECONDS)
            self._connection.close()


def _serve(connection: Connection, rules: Rules, prepare_one: Prepare) -> None:
    """Be a worker: answer chunk by chunk until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    # What is imported stays for ever, and records make no cycles: rarely look for garbage.
    gc.freeze()
    gc.set_threshold(100_000)
    with contextlib.suppress(EOFError, OSError):
        while True:
            documents = connection.recv()
            connection.send([prepare_one(document, rules) for document in documents])


async def prepare_all(
    chunks: Iterator[list[Document]],
    rules: Rules,
    *,
    timeout_seconds: float,
    workers: int | None = None,
) -> AsyncGenerator[Sequence[Prepared], None]:
    """Prepare chunk after chunk, in order, with few of them in memory at a time.

    `timeout_seconds` bounds what one chunk may take in a worker, and then each document of it.
    """
    first, more = await asyncio.to_thread(_peeked, chunks)
    count = workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    pool = [ParseWorker(rules, timeout_seconds) for _ in range(count if more else 0)]
    try:
        for worker in pool:
            # They import what they need while the first chunks are parsed at home.
            await asyncio.to_thread(worker.start)
        for chunk in first:
            yield await asyncio.to_thread(_prepared, chunk, rules)
        if more:
            async with aclosing(_in_workers(chunks, pool)) as results:
                async for prepared in results:
                    yield prepared
    finally:
        for worker in pool:
            worker.close()


def _peeked(chunks: Iterator[list[Document]]) -> tuple[list[list[Document]], bool]:
    """Take what is little enough to be parsed at home; tell whether more may follow."""
    taken: list[list[Document]] = []
    documents = size = 0
    for chunk in chunks:
        taken.append(chunk)
        documents += len(chunk)
        size += sum(len(document.data) for document in chunk)
        if documents > _SMALL_DOCUMENTS or size > _SMALL_BYTES:
            return taken, True
    return taken, False


def _prepared(chunk: Sequence[Document], rules: Rules) -> list[Prepared]:
    return [prepare(document, rules) for document in chunk]


async def _in_workers(
    chunks: Iterator[list[Document]], workers: Sequence[ParseWorker]
) -> AsyncGenerator[Sequence[Prepared], None]:
    """Parse in the workers, which end with it: a chunk that one is at is given up."""
    loop = asyncio.get_running_loop()
    count = len(workers)
    free: deque[ParseWorker] = deque(workers)
    threads = ThreadPoolExecutor(count + 1, thread_name_prefix="parse")
    running: deque[asyncio.Future[list[Prepared]]] = deque()

    def parse(chunk: list[Document]) -> list[Prepared]:
        worker = free.popleft()
        try:
            return worker.parse(chunk)
        finally:
            free.append(worker)

    gate = asyncio.Semaphore(count)

    async def parse_gated(chunk: list[Document]) -> list[Prepared]:
        async with gate:
            return await loop.run_in_executor(threads, parse, chunk)

    try:
        while (chunk := await loop.run_in_executor(threads, next, chunks, None)) is not None:
            running.append(asyncio.ensure_future(parse_gated(chunk)))
            while len(running) >= count * _CHUNKS_AHEAD or (running and running[0].done()):
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for future in running:
            future.cancel()
        for worker in workers:
            worker.close()
        threads.shutdown(wait=False, cancel_futures=True)
