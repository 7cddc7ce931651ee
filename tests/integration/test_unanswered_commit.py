"""A COMMIT whose answer is lost is counted, and the stored position tells what had happened."""

from urllib.parse import urlsplit, urlunsplit

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom.adapters.embedded.processes import free_port
from newsloom.adapters.postgres import open_store
from newsloom.errors import Unavailable
from newsloom.metrics import Metrics
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings
from tests.support.articles import article, observations
from tests.support.proxy import Cut, Trigger, open_proxy

PARTITION = TopicPartition("t", 0)


@pytest.mark.parametrize(("cut", "stored"), [(Cut.AFTER, 1), (Cut.BEFORE, 0)])
async def test_a_commit_without_an_answer_is_counted(database: str, cut: Cut, stored: int) -> None:
    parts = urlsplit(database)
    port = free_port()
    through = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}")
    settings = PostgresSettings(dsn=SecretStr(urlunsplit(through)))
    metrics = Metrics(CollectorRegistry())
    async with (
        open_proxy(parts.port or 5432, port) as proxy,
        open_store(settings, consumer_group="newsloom", metrics=metrics) as store,
    ):
        claim = await store.claim(PARTITION, "me", 0)
        proxy.arm(Trigger(b"COMMIT\x00", cut))
        with pytest.raises(Unavailable):
            await store.apply(
                Batch(PARTITION, claim.epoch, 0, 0, 1, observations((0, article("of-1"))))
            )
        counted = metrics.registry.get_sample_value("newsloom_commit_unknown_total")
        again = await store.claim(PARTITION, "me", 0)
    assert counted == 1
    assert again.next_offset == stored
