"""More real brokers beside the one of a bench: for leaders that move and partitions without one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from newsloom.adapters.embedded import EmbeddedKafka
from newsloom.adapters.embedded.processes import free_port

FIRST_NODE = 2
"""Node 1 is the bench's own: broker and controller. It holds the group's coordinator."""

_TRIES = 30


class Broker(EmbeddedKafka):
    """A broker without a controller of its own, in the cluster of another one."""

    def __init__(self, folder: Path, *, cache: Path, node: int, head: EmbeddedKafka) -> None:
        state = head._state()
        assert state is not None, "start the first broker before the others"
        self.node = node
        self._cluster_id = state["cluster_id"]
        port = free_port()
        config = {
            "process.roles": "broker",
            "node.id": str(node),
            "listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{state['controller_port']}",
        }
        super().__init__(folder, cache=cache, port=port, config=config)

    def _new_state(self) -> Any:
        return {**super()._new_state(), "cluster_id": self._cluster_id}


class Cluster:
    """Three brokers, and one Kafka topic that lives on them alone, each partition on all three."""

    def __init__(self, bootstrap: str, topic: str, brokers: Mapping[int, Broker]) -> None:
        self.topic = topic
        self.brokers = brokers
        self._bootstrap = bootstrap

    async def create(self, partitions: int) -> None:
        """Create the topic: three replicas, of which two must have what is acknowledged."""
        nodes = list(self.brokers)
        spread = {p: [nodes[(p + n) % len(nodes)] for n in range(3)] for p in range(partitions)}
        new = NewTopic(
            self.topic,
            -1,
            -1,
            replica_assignments=spread,
            topic_configs={"min.insync.replicas": "2", "unclean.leader.election.enable": "false"},
        )
        async with self._admin() as admin:
            response = await admin.create_topics([new])
            failed = [error for error in response.topic_errors if error[1] != 0]
            assert not failed, failed

    async def leaders(self) -> dict[int, int]:
        """Return the node that leads each partition; -1: nobody."""
        return {p["partition"]: p["leader"] for p in await self._partitions()}

    async def whole(self, patience: float = 60) -> None:
        """Wait until every replica is in sync."""
        async with asyncio.timeout(patience):
            while any(  # noqa: ASYNC110 - Kafka has no event for it
                len(p["isr"]) < len(self.brokers) for p in await self._partitions()
            ):
                await asyncio.sleep(0.2)

    async def kill(self, *nodes: int) -> None:
        """SIGKILL, all at the same time."""
        await asyncio.gather(*(asyncio.to_thread(self.brokers[n].kill) for n in nodes))

    async def start(self, *nodes: int) -> None:
        """Start those that do not run."""
        await asyncio.gather(*(asyncio.to_thread(self.brokers[n].start) for n in nodes))

    async def stop(self, patience: float = 60) -> None:
        """Shut all of them down, and wait until the cluster has forgotten them."""
        await self.start(*self.brokers)  # one that is killed is remembered for a while
        await asyncio.gather(*(asyncio.to_thread(b.stop) for b in self.brokers.values()))
        async with asyncio.timeout(patience):
            while len(await self._living()) > 1:  # noqa: ASYNC110 - Kafka has no event for it
                await asyncio.sleep(0.2)

    async def _living(self) -> list[Any]:
        async with self._admin() as admin:
            return list((await admin.describe_cluster())["brokers"])

    async def _partitions(self) -> list[dict[str, Any]]:
        """Ask any broker; the client itself may choose one that was killed."""
        for _ in range(_TRIES):
            try:
                async with self._admin() as admin:
                    (described,) = await admin.describe_topics([self.topic])
            except KafkaError:
                await asyncio.sleep(0.5)
            else:
                return list(described["partitions"])
        raise AssertionError("no broker told about its partitions")

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


@asynccontextmanager
async def open_cluster(
    head: EmbeddedKafka, bootstrap: str, topic: str, *, cache: Path, partitions: int
) -> AsyncIterator[Cluster]:
    """Start three brokers in the cluster of `head`, for the length of the block."""
    nodes = range(FIRST_NODE, FIRST_NODE + 3)
    folder = head.folder.parent
    brokers = {n: Broker(folder / f"kafka-{n}", cache=cache, node=n, head=head) for n in nodes}
    cluster = Cluster(bootstrap, topic, brokers)
    try:
        await cluster.start(*brokers)
        await cluster.create(partitions)
        await cluster.whole()
        yield cluster
    finally:
        await cluster.stop()
