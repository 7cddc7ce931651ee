"""FastStream on Kafka with asyncpg, one upsert a record. Arguments: see `field`."""

import asyncio
import json
import sys

import asyncpg
from faststream import FastStream
from faststream.kafka import KafkaBroker
from flat import UPSERT, row_of

servers, topic, dsn, group = sys.argv[1:5]
broker = KafkaBroker(servers)
app = FastStream(broker)
pool: list[asyncpg.Connection] = []


@broker.subscriber(topic, group_id=group, auto_offset_reset="earliest", decoder=lambda m: m.body)
async def store(body: bytes) -> None:
    """Write one record."""
    if not pool:
        pool.append(await asyncpg.connect(dsn))
    await pool[0].execute(UPSERT, *row_of(json.loads(body)).values())


asyncio.run(app.run())
