"""The statements of the relay, each beside what its parameters are."""

from typing import Final

# $1 owner
TAKE_OVER: Final = """
INSERT INTO newsloom.cursors AS c (reader, epoch, owner_id) VALUES ('relay', 1, $1)
ON CONFLICT (reader) DO UPDATE
    SET epoch = c.epoch + 1, owner_id = excluded.owner_id, updated_at = now()
RETURNING c.epoch, c.xid::text::bigint AS xid, c.change_id,
    (SELECT (c.xid, c.change_id) < (s.retired_xid, s.retired_change_id)
     FROM newsloom.change_log_state AS s) AS has_missed"""

# $1 epoch, $2 $3 expected position, $4 $5 new position
ADVANCE: Final = """
UPDATE newsloom.cursors
SET xid = ($4::bigint)::text::xid8, change_id = $5, updated_at = now()
WHERE reader = 'relay' AND epoch = $1
    AND xid = ($2::bigint)::text::xid8 AND change_id = $3"""

# The whole public state of the row p, from the public views: what is merged or erased has none.
_ARTICLE_STATE: Final = """
SELECT to_jsonb(v) || jsonb_build_object(
    'urls', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'url', u.url, 'kind', u.kind, 'canonical_url', u.canonical_url)
            ORDER BY u.kind, u.url), '[]')
        FROM newsloom.article_urls AS u WHERE u.article_id = p.article_id),
    'images', (
        SELECT coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.position), '[]')
        FROM api.article_images AS i WHERE i.article_id = p.article_id),
    'related', (
        SELECT coalesce(jsonb_agg(r.related_article_id ORDER BY r.position), '[]')
        FROM api.related_articles AS r WHERE r.article_id = p.article_id))
FROM api.articles AS v WHERE v.article_id = p.article_id"""

_STORY_STATE: Final = """
SELECT to_jsonb(v) || jsonb_build_object(
    'articles', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'article_id', m.article_id, 'score', m.score) ORDER BY m.article_id), '[]')
        FROM api.story_articles AS m WHERE m.story_id = p.story_id))
FROM api.stories AS v WHERE v.story_id = p.story_id"""

# $1 $2 position, $3 rows at most, $4 bytes of text at most (but one row always). One statement is
# one snapshot: a state is never older than the row beside it. Each entity's state comes with its
# first row.
READ: Final = f"""
WITH page AS MATERIALIZED (
    SELECT c.*,
        row_number() OVER (
            PARTITION BY c.article_id, c.story_id ORDER BY c.xid, c.change_id) AS nth,
        row_number() OVER w AS number, sum(c.size) OVER w AS total
    FROM (
        SELECT l.*, coalesce(octet_length(t.body), 0)
            + coalesce(octet_length(t.featured_content), 0) AS size
        FROM (
            SELECT * FROM newsloom.changes
            WHERE (xid, change_id) > (($1::bigint)::text::xid8, $2)
                AND xid < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY xid, change_id
            LIMIT $3
        ) AS l
        LEFT JOIN newsloom.article_contents AS t USING (article_id)
    ) AS c
    WINDOW w AS (ORDER BY c.xid, c.change_id)
)
SELECT p.xid::text::bigint AS xid, p.change_id, p.recorded_at, p.observed_at, p.article_id,
    p.story_id, p.version, p.kind, p.changed_fields, p.other_id,
    coalesce(a.version, s.version) AS current_version,
    coalesce(a.merged_into, s.merged_into) AS merged_into,
    CASE WHEN p.nth > 1 THEN NULL
        WHEN p.article_id IS NOT NULL THEN (
{_ARTICLE_STATE})
        ELSE (
{_STORY_STATE})
    END AS state,
    extract(epoch FROM clock_timestamp() - p.recorded_at)::float8 AS age
FROM page AS p
LEFT JOIN newsloom.articles AS a ON a.article_id = p.article_id
LEFT JOIN newsloom.stories AS s ON s.story_id = p.story_id
WHERE p.number = 1 OR p.total <= $4
ORDER BY p.xid, p.change_id"""  # noqa: S608 - constants

_ARTICLE_TEXT_BYTES: Final = """
coalesce(octet_length(t.body), 0) + coalesce(octet_length(t.featured_content), 0) AS size"""

# $1 the article after which to go on, $2 articles at most, $3 bytes of text at most (but one)
SNAPSHOT_ARTICLES: Final = f"""
WITH page AS MATERIALIZED (
    SELECT n.*, row_number() OVER w AS number, sum(n.size) OVER w AS total
    FROM (
        SELECT a.article_id, a.version, a.merged_into, a.observed_at, {_ARTICLE_TEXT_BYTES}
        FROM newsloom.articles AS a LEFT JOIN newsloom.article_contents AS t USING (article_id)
        WHERE a.article_id > $1 ORDER BY a.article_id LIMIT $2
    ) AS n
    WINDOW w AS (ORDER BY n.article_id)
)
SELECT p.article_id AS id, p.version, p.merged_into, p.observed_at, clock_timestamp() AS read_at,
    ({_ARTICLE_STATE}) AS state
FROM page AS p
WHERE p.number = 1 OR p.total <= $3
ORDER BY p.article_id"""  # noqa: S608 - constants

# $1 the story after which to go on, $2 stories at most
SNAPSHOT_STORIES: Final = f"""
SELECT p.story_id AS id, p.version, p.merged_into, clock_timestamp() AS observed_at,
    clock_timestamp() AS read_at, ({_STORY_STATE}) AS state
FROM (
    SELECT * FROM newsloom.stories WHERE story_id > $1 ORDER BY story_id LIMIT $2
) AS p
ORDER BY p.story_id"""  # noqa: S608 - constants

# $1 articles, $2 a version of each
ARTICLES_MOVED_ON: Final = f"""
SELECT p.article_id AS id, p.version, p.merged_into, p.observed_at, clock_timestamp() AS read_at,
    ({_ARTICLE_STATE}) AS state
FROM newsloom.articles AS p
JOIN unnest($1::uuid[], $2::bigint[]) AS k (article_id, version) USING (article_id)
WHERE p.version <> k.version"""  # noqa: S608 - constants

# $1 stories, $2 a version of each
STORIES_MOVED_ON: Final = f"""
SELECT p.story_id AS id, p.version, p.merged_into, clock_timestamp() AS observed_at,
    clock_timestamp() AS read_at, ({_STORY_STATE}) AS state
FROM newsloom.stories AS p
JOIN unnest($1::uuid[], $2::bigint[]) AS k (story_id, version) USING (story_id)
WHERE p.version <> k.version"""  # noqa: S608 - constants

# $1 $2 position. Rows above the horizon count too: then a long transaction holds the log back.
WAITING: Final = """
SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 AS age
FROM newsloom.changes
WHERE (xid, change_id) > (($1::bigint)::text::xid8, $2)
ORDER BY xid, change_id LIMIT 1"""

LETTER_COLUMNS: Final = """kafka_topic, incarnation, kafka_partition, kafka_offset, consumer_group,
    reason, detail, observed_at, created_at, relayed_at, replayed_at, replay_count,
    octet_length(value) AS value_bytes"""

# $1 letters at most, $2 bytes of values at most (but one letter always)
UNRELAYED: Final = f"""
SELECT {LETTER_COLUMNS}, key, value, headers,
    extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
FROM (
    SELECT d.*, row_number() OVER w AS number,
        sum(coalesce(octet_length(d.value), 0)) OVER w AS total
    FROM (
        SELECT * FROM newsloom.dead_letters WHERE relayed_at IS NULL
        ORDER BY created_at LIMIT $1
    ) AS d
    WINDOW w AS (
        ORDER BY d.created_at, d.consumer_group, d.kafka_topic, d.kafka_partition, d.incarnation,
            d.kafka_offset)
) AS d
WHERE number = 1 OR total <= $2
ORDER BY number"""  # noqa: S608 - constants

# $1 groups, $2 Kafka topics, $3 partitions, $4 incarnations, $5 offsets
MARK_RELAYED: Final = """
UPDATE newsloom.dead_letters AS d SET relayed_at = now()
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::bigint[])
    AS n (consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset)
WHERE (d.consumer_group, d.kafka_topic, d.kafka_partition, d.incarnation, d.kafka_offset)
    = (n.consumer_group, n.kafka_topic, n.kafka_partition, n.incarnation, n.kafka_offset)
    AND d.relayed_at IS NULL"""
