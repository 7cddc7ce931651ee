"""The statements of the linker, each beside what its parameters are."""

from typing import Final

# $1 owner
TAKE_OVER: Final = """
INSERT INTO newsloom.cursors AS c (reader, epoch, owner_id) VALUES ('link', 1, $1)
ON CONFLICT (reader) DO UPDATE
    SET epoch = c.epoch + 1, owner_id = excluded.owner_id, updated_at = now()
RETURNING c.epoch, c.xid::text::bigint AS xid, c.change_id, c.sequence, c.window_from,
    c.trim_sequence"""

# $1 epoch, $2 $3 expected position, $4 $5 new position, $6 sequence, $7 window, $8 trim sequence
ADVANCE: Final = """
UPDATE newsloom.cursors
SET xid = ($4::bigint)::text::xid8, change_id = $5, sequence = $6, window_from = $7,
    trim_sequence = $8, updated_at = now()
WHERE reader = 'link' AND epoch = $1
    AND xid = ($2::bigint)::text::xid8 AND change_id = $3"""

# $1 start of the window, $2 trim sequence. A root that has copies is in its own group.
STATES: Final = """
SELECT s.*, m.story_id, r.article_id AS root_id, r.first_seen_at AS root_first_seen_at,
    r.published_at AS root_published_at
FROM newsloom.link_states AS s
LEFT JOIN newsloom.story_articles AS m USING (article_id)
LEFT JOIN newsloom.copies AS k USING (article_id)
LEFT JOIN newsloom.link_states AS r ON r.article_id = coalesce(
    k.copy_of,
    (SELECT s.article_id FROM newsloom.copies AS o WHERE o.copy_of = s.article_id LIMIT 1))
WHERE s.first_seen_at >= $1 OR s.sequence > $2
ORDER BY s.sequence"""

# $1 $2 position, $3 limit
READ: Final = """
SELECT c.xid::text::bigint AS xid, c.change_id, c.recorded_at, c.article_id, c.version,
    c.matters,
    a.version AS current_version, a.merged_into, a.first_seen_at,
    t.title, t.excerpt, t.body, t.published_at, s.version AS linked_version,
    (SELECT array_agg(r.related_article_id ORDER BY r.related_article_id)
     FROM newsloom.related_articles AS r
     WHERE c.matters AND r.article_id = c.article_id) AS related
FROM (
    SELECT *,
        kind IN ('created', 'mentioned', 'revised', 'removed', 'merged', 'erased') AS matters
    FROM newsloom.changes
    WHERE (xid, change_id) > (($1::bigint)::text::xid8, $2)
        AND xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY xid, change_id
    LIMIT $3
) AS c
LEFT JOIN newsloom.articles AS a ON c.matters AND a.article_id = c.article_id
LEFT JOIN newsloom.article_contents AS t ON t.article_id = a.article_id
    AND a.merged_into IS NULL AND a.erased_at IS NULL
LEFT JOIN newsloom.link_states AS s ON c.matters AND s.article_id = c.article_id
ORDER BY c.xid, c.change_id"""

# Rows behind the position that a running transaction hides; none: all is read.
WAITING: Final = """
SELECT recorded_at FROM newsloom.changes
WHERE (xid, change_id) > (($1::bigint)::text::xid8, $2)
ORDER BY xid, change_id
LIMIT 1"""

STATE_COLUMNS: Final = (
    "article_id",
    "sequence",
    "version",
    "first_seen_at",
    "published_at",
    "is_counted",
    "related",
    "pair_ids",
    "pair_jaccard",
    "pair_containment",
    "signature",
    "features",
)

UPSERT_STATE: Final = """
INSERT INTO newsloom.link_states (article_id, sequence, version, first_seen_at, published_at,
    is_counted, related, pair_ids, pair_jaccard, pair_containment, signature, features)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (article_id) DO UPDATE SET sequence = excluded.sequence, version = excluded.version,
    first_seen_at = excluded.first_seen_at, published_at = excluded.published_at,
    is_counted = excluded.is_counted, related = excluded.related, pair_ids = excluded.pair_ids,
    pair_jaccard = excluded.pair_jaccard, pair_containment = excluded.pair_containment,
    signature = excluded.signature, features = excluded.features"""

UPDATE_PAIRS: Final = """
UPDATE newsloom.link_states SET pair_ids = $2, pair_jaccard = $3, pair_containment = $4
WHERE article_id = $1"""

DELETE_STATES: Final = "DELETE FROM newsloom.link_states WHERE article_id = ANY($1)"

# $1 old root, $2 new root
MOVE_ROOT: Final = """
UPDATE newsloom.copies SET copy_of = $2 WHERE copy_of = $1 AND article_id <> $2
RETURNING article_id"""

FREE_ROOT: Final = """
DELETE FROM newsloom.copies WHERE article_id = $2 AND copy_of = $1
RETURNING article_id"""

DELETE_COPIES: Final = "DELETE FROM newsloom.copies WHERE article_id = ANY($1)"

# $1 articles, $2 roots, $3 jaccard, $4 containment, $5 version of the rules
INSERT_COPIES: Final = """
INSERT INTO newsloom.copies (article_id, copy_of, jaccard, containment, algorithm_version)
SELECT u.article_id, u.copy_of, u.jaccard, u.containment, $5
FROM unnest($1::uuid[], $2::uuid[], $3::real[], $4::real[])
    AS u (article_id, copy_of, jaccard, containment)
ON CONFLICT (article_id) DO UPDATE SET copy_of = excluded.copy_of, jaccard = excluded.jaccard,
    containment = excluded.containment, algorithm_version = excluded.algorithm_version"""

LOCK_ARTICLES: Final = """
SELECT 1 FROM newsloom.articles WHERE article_id = ANY($1) ORDER BY article_id FOR NO KEY UPDATE"""

RAISE_VERSIONS: Final = """
UPDATE newsloom.articles AS a SET version = a.version + 1
FROM unnest($1::uuid[]) AS u (article_id)
LEFT JOIN newsloom.copies AS k USING (article_id)
WHERE a.article_id = u.article_id
RETURNING a.article_id, a.version, a.observed_at, k.copy_of"""

# $1 articles, $2 versions, $3 kinds, $4 the article that each repeats, $5 observed times
INSERT_CHANGES: Final = """
INSERT INTO newsloom.changes (article_id, version, kind, other_id, observed_at)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::uuid[], $5::timestamptz[])"""

# $1 story that is gone, $2 story that it belongs to now
MOVE_MEMBERS: Final = "UPDATE newsloom.story_articles SET story_id = $2 WHERE story_id = $1"

MERGE_STORY: Final = """
UPDATE newsloom.stories SET merged_into = $2 WHERE story_id = $1 OR merged_into = $1"""

DELETE_MEMBERS: Final = """
DELETE FROM newsloom.story_articles WHERE article_id = ANY($1) RETURNING story_id"""

# $1 articles, $2 stories, $3 scores
INSERT_MEMBERS: Final = """
INSERT INTO newsloom.story_articles (article_id, story_id, score)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::real[])
ON CONFLICT (article_id) DO UPDATE SET story_id = excluded.story_id, score = excluded.score"""

# $1 stories: their figures anew. The title is that of the article that fits best, the earliest.
COUNT_STORIES: Final = """
INSERT INTO newsloom.stories AS s (story_id, version, first_published_at, last_published_at,
    article_count, provider_count, title)
SELECT u.story_id, 1, min(c.published_at), max(c.published_at), count(c.article_id),
    count(DISTINCT c.provider_domain),
    coalesce((array_agg(c.title ORDER BY m.score DESC, c.published_at, c.article_id)
        FILTER (WHERE c.article_id IS NOT NULL))[1], '')
FROM unnest($1::uuid[]) AS u (story_id)
LEFT JOIN newsloom.story_articles AS m USING (story_id)
LEFT JOIN newsloom.article_contents AS c ON c.article_id = m.article_id
GROUP BY u.story_id
ON CONFLICT (story_id) DO UPDATE SET version = s.version + 1,
    first_published_at = excluded.first_published_at,
    last_published_at = excluded.last_published_at, article_count = excluded.article_count,
    provider_count = excluded.provider_count,
    title = CASE WHEN excluded.article_count > 0 THEN excluded.title ELSE s.title END"""

# $1 stories, $2 kinds, $3 the other story of a merge
STORY_CHANGES: Final = """
INSERT INTO newsloom.changes (story_id, version, kind, other_id, observed_at)
SELECT u.story_id, s.version, u.kind, u.other_id, now()
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS u (story_id, kind, other_id)
JOIN newsloom.stories AS s USING (story_id)"""

HORIZON: Final = """
SELECT xid::text::bigint AS xid, change_id FROM newsloom.changes
WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid DESC, change_id DESC LIMIT 1"""

ARTICLES: Final = """
SELECT a.article_id, a.version, a.version AS current_version, NULL::uuid AS merged_into,
    a.first_seen_at, t.title, t.excerpt, t.body, t.published_at, 0::bigint AS linked_version,
    (SELECT array_agg(r.related_article_id ORDER BY r.related_article_id)
     FROM newsloom.related_articles AS r WHERE r.article_id = a.article_id) AS related
FROM newsloom.articles AS a
JOIN newsloom.article_contents AS t USING (article_id)
WHERE a.merged_into IS NULL AND a.erased_at IS NULL
ORDER BY a.first_seen_at, a.article_id"""
