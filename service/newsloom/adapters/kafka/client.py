"""What every Kafka client of newsloom is configured with: addresses, TLS, credentials."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.helpers import create_ssl_context

from newsloom.errors import Unavailable
from newsloom.settings import KafkaSettings

CLIENT_ID = "newsloom"

# At DEBUG aiokafka prints keys, values and whole requests.
_logger = logging.getLogger("aiokafka")
_logger.setLevel(max(_logger.level, logging.INFO))


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments shared by aiokafka's producer, consumer and admin client."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": CLIENT_ID,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": int(settings.request_timeout_seconds * 1000),
    }
    if settings.uses_tls:
        options["ssl_context"] = _ssl_context(settings)
    if settings.uses_sasl:
        password = settings.sasl_password
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    return options


@contextmanager
def kafka_unavailable() -> Iterator[None]:
    """Translate the errors that mean "Kafka is away, or will not let us in" into `Unavailable`."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise unavailable(error) from error
    except (OSError, TimeoutError) as error:
        raise Unavailable("kafka", type(error).__name__) from error


def unavailable(error: kafka_errors.KafkaError) -> Unavailable:
    """Name the cause by its class: messages may quote addresses and payloads."""
    systemic = isinstance(error, _SYSTEMIC)
    return Unavailable("kafka", type(error).__name__, systemic=systemic)


_SYSTEMIC = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.AuthenticationFailedError,
    kafka_errors.UnknownTopicOrPartitionError,
)


def _ssl_context(settings: KafkaSettings) -> Any:
    password = settings.ssl_key_password
    return create_ssl_context(
        cafile=str(settings.ssl_ca_file) if settings.ssl_ca_file else None,
        certfile=str(settings.ssl_certificate_file) if settings.ssl_certificate_file else None,
        keyfile=str(settings.ssl_key_file) if settings.ssl_key_file else None,
        password=password.get_secret_value() if password else None,
    )
