"""Quix Streams with its PostgreSQLSink, upsert by primary key. Arguments: see `field`."""

import sys
from urllib.parse import urlsplit

from flat import row_of
from quixstreams import Application
from quixstreams.sinks.community.postgresql import PostgreSQLSink

servers, topic, dsn, group = sys.argv[1:5]
parts = urlsplit(dsn)
application = Application(
    broker_address=servers, consumer_group=group, auto_offset_reset="earliest", commit_every=1000
)
sink = PostgreSQLSink(
    host=parts.hostname or "",
    port=parts.port or 5432,
    dbname=parts.path[1:],
    user=parts.username or "",
    password=parts.password or "",
    table_name="flat",
    schema_auto_update=False,
    upsert_on_primary_key=True,
    include_metadata=False,
    primary_key_columns=["url"],
)
frame = application.dataframe(application.topic(topic, value_deserializer="json"))
frame.apply(row_of).sink(sink)
application.run()
