-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- One row a partition of Kafka, updated twice a batch: half of every page stays free for it.
CREATE TABLE newsloom.ingest_offsets (
    consumer_group text NOT NULL,
    kafka_topic text NOT NULL,
    kafka_partition integer NOT NULL,
    incarnation integer NOT NULL DEFAULT 0,
    next_offset bigint NOT NULL,
    owner_epoch bigint NOT NULL DEFAULT 0,
    owner_id text,
    anchor_offset bigint,
    anchor_timestamp_ms bigint,
    anchor_sha256 bytea,
    created bigint NOT NULL DEFAULT 0,
    revised bigint NOT NULL DEFAULT 0,
    refreshed bigint NOT NULL DEFAULT 0,
    unchanged bigint NOT NULL DEFAULT 0,
    stale bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    strikes integer NOT NULL DEFAULT 0,
    batch_started_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    parked_reason text,
    CONSTRAINT ingest_offsets_pkey PRIMARY KEY (consumer_group, kafka_topic, kafka_partition),
    CONSTRAINT ingest_offsets_next_offset CHECK (next_offset >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

COMMENT ON TABLE newsloom.ingest_offsets IS
    'How far each partition of a Kafka topic has been ingested, in the same transaction as what was ingested. Kafka''s own committed offsets are but a copy for lag tools.';
COMMENT ON COLUMN newsloom.ingest_offsets.consumer_group IS 'Kafka consumer group.';
COMMENT ON COLUMN newsloom.ingest_offsets.kafka_topic IS 'Kafka topic.';
COMMENT ON COLUMN newsloom.ingest_offsets.kafka_partition IS 'Partition of the Kafka topic.';
COMMENT ON COLUMN newsloom.ingest_offsets.incarnation IS
    'Raised by an operator when the Kafka topic was made anew: its offsets start again.';
COMMENT ON COLUMN newsloom.ingest_offsets.next_offset IS 'The first offset that has no outcome yet.';
COMMENT ON COLUMN newsloom.ingest_offsets.owner_epoch IS
    'Raised by every claim; a batch of an older epoch is refused.';
COMMENT ON COLUMN newsloom.ingest_offsets.owner_id IS 'Who claimed it last.';
COMMENT ON COLUMN newsloom.ingest_offsets.anchor_offset IS 'Offset of the last delivery applied.';
COMMENT ON COLUMN newsloom.ingest_offsets.anchor_timestamp_ms IS 'Kafka timestamp of that delivery, milliseconds since 1970.';
COMMENT ON COLUMN newsloom.ingest_offsets.anchor_sha256 IS
    'Hash of that delivery: tells whether the Kafka topic is still the same one.';
COMMENT ON COLUMN newsloom.ingest_offsets.created IS 'Deliveries with the outcome created.';
COMMENT ON COLUMN newsloom.ingest_offsets.revised IS 'Deliveries with the outcome revised.';
COMMENT ON COLUMN newsloom.ingest_offsets.refreshed IS 'Deliveries with the outcome refreshed.';
COMMENT ON COLUMN newsloom.ingest_offsets.unchanged IS 'Deliveries with the outcome unchanged.';
COMMENT ON COLUMN newsloom.ingest_offsets.stale IS 'Deliveries with the outcome stale.';
COMMENT ON COLUMN newsloom.ingest_offsets.rejected IS 'Deliveries with the outcome rejected: dead letters.';
COMMENT ON COLUMN newsloom.ingest_offsets.skipped IS 'Offsets passed over by an operator.';
COMMENT ON COLUMN newsloom.ingest_offsets.strikes IS
    'Claims in a row that found an unfinished batch: something in it may crash the process.';
COMMENT ON COLUMN newsloom.ingest_offsets.batch_started_at IS
    'Set before a batch is decoded, cleared by its end: left behind by a crash.';
COMMENT ON COLUMN newsloom.ingest_offsets.updated_at IS 'When the row last changed.';
COMMENT ON COLUMN newsloom.ingest_offsets.parked_reason IS 'Why ingest waits for an operator here; NULL: it runs.';

CREATE FUNCTION newsloom.refuse_rewind() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('newsloom.rewind', true), '') <> 'on' THEN
        RAISE EXCEPTION 'next_offset may not go down' USING ERRCODE = 'NL002';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION newsloom.refuse_rewind() IS
    'Stops a bug from ingesting twice: an operator who means it says SET LOCAL newsloom.rewind = ''on''.';
CREATE TRIGGER ingest_offsets_refuse_rewind BEFORE UPDATE ON newsloom.ingest_offsets
    FOR EACH ROW
    WHEN (NEW.next_offset < OLD.next_offset AND NEW.incarnation <= OLD.incarnation)
    EXECUTE FUNCTION newsloom.refuse_rewind();
COMMENT ON TRIGGER ingest_offsets_refuse_rewind ON newsloom.ingest_offsets IS
    'Positions only move forward, unless the Kafka topic has a new incarnation.';

CREATE TABLE newsloom.dead_letters (
    consumer_group text NOT NULL,
    kafka_topic text NOT NULL,
    kafka_partition integer NOT NULL,
    incarnation integer NOT NULL,
    kafka_offset bigint NOT NULL,
    observed_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    relayed_at timestamptz,
    replayed_at timestamptz,
    replay_count integer NOT NULL DEFAULT 0,
    reason text NOT NULL,
    detail text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb,
    CONSTRAINT dead_letters_pkey
        PRIMARY KEY (consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset),
    CONSTRAINT dead_letters_detail CHECK (char_length(detail) <= 500)
);
CREATE INDEX dead_letters_created_at_idx ON newsloom.dead_letters (created_at);
CREATE INDEX dead_letters_to_relay_idx ON newsloom.dead_letters (created_at) WHERE relayed_at IS NULL;
COMMENT ON TABLE newsloom.dead_letters IS
    'Deliveries that can never succeed, with their original bytes: hostile and personal data.';
COMMENT ON COLUMN newsloom.dead_letters.consumer_group IS 'Kafka consumer group.';
COMMENT ON COLUMN newsloom.dead_letters.kafka_topic IS 'Kafka topic.';
COMMENT ON COLUMN newsloom.dead_letters.kafka_partition IS 'Partition of the Kafka topic.';
COMMENT ON COLUMN newsloom.dead_letters.incarnation IS 'Of the Kafka topic, as in ingest_offsets.';
COMMENT ON COLUMN newsloom.dead_letters.kafka_offset IS 'Offset of the delivery.';
COMMENT ON COLUMN newsloom.dead_letters.observed_at IS 'When the delivery was first observed; a replay keeps it.';
COMMENT ON COLUMN newsloom.dead_letters.created_at IS 'When the row was written.';
COMMENT ON COLUMN newsloom.dead_letters.relayed_at IS 'When it was sent to the Kafka topic of dead letters.';
COMMENT ON COLUMN newsloom.dead_letters.replayed_at IS 'When an operator last tried it again.';
COMMENT ON COLUMN newsloom.dead_letters.replay_count IS 'How often it was tried again.';
COMMENT ON COLUMN newsloom.dead_letters.reason IS 'A code of a closed set.';
COMMENT ON COLUMN newsloom.dead_letters.detail IS 'What to mend; quotes no article text.';
COMMENT ON COLUMN newsloom.dead_letters.key IS 'Key of the delivery.';
COMMENT ON COLUMN newsloom.dead_letters.value IS 'Value of the delivery.';
COMMENT ON COLUMN newsloom.dead_letters.headers IS
    'Headers of the delivery: [[name, base64 or null], ...], repeated names kept.';

RESET ROLE;

-- migrate:down
DROP TABLE newsloom.dead_letters;
DROP TABLE newsloom.ingest_offsets;
DROP FUNCTION newsloom.refuse_rewind();
