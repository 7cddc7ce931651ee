import aiokafka.partitioner
from hypothesis import example, given
from hypothesis import strategies as st

from newsloom.adapters.kafka.producer import murmur2


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 4096)
def test_a_key_has_the_partition_that_every_kafka_client_gives_it(key: bytes) -> None:
    assert murmur2(key) == aiokafka.partitioner.murmur2(key)
