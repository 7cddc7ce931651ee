"""The tutorial way: aiokafka, asyncpg, one upsert a record, auto-commit. Arguments: see `field`."""

import asyncio
import json
import sys

import asyncpg
from aiokafka import AIOKafkaConsumer
from flat import UPSERT, row_of


async def main(servers: str, topic: str, dsn: str, group: str) -> None:
    """Run until killed."""
    connection = await asyncpg.connect(dsn)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest"
    )
    await consumer.start()
    async for message in consumer:
        await connection.execute(UPSERT, *row_of(json.loads(message.value)).values())


asyncio.run(main(*sys.argv[1:5]))
