"""The statements of `newsloom erase`, each beside what its parameters are."""

from typing import Final

# $1 an article's id or the id of a URL key, $2 which: the article that it means today.
OWNER: Final = """
SELECT coalesce(a.merged_into, a.article_id) FROM newsloom.articles AS a
WHERE a.article_id = CASE
    WHEN $2 THEN (SELECT u.article_id FROM newsloom.article_urls AS u WHERE u.url_id = $1)
    ELSE $1
END"""

# $1 an article: those merged into it
GROUP: Final = """
SELECT article_id FROM newsloom.articles WHERE merged_into = $1 ORDER BY article_id"""

# $1 articles
URL_IDS: Final = "SELECT url_id FROM newsloom.article_urls WHERE article_id = ANY($1::uuid[])"
COPIES_OF: Final = "SELECT article_id FROM newsloom.copies WHERE copy_of = ANY($1::uuid[])"

LOCK_LINKER: Final = "SELECT 1 FROM newsloom.cursors WHERE reader = 'link' FOR UPDATE"

# $1 articles
LOCK_HEADS: Final = """
SELECT article_id, merged_into, erased_at FROM newsloom.articles
WHERE article_id = ANY($1::uuid[]) ORDER BY article_id FOR UPDATE"""

# $1 articles: the titles they ever had, which a story may have taken
TITLES: Final = """
SELECT title FROM newsloom.article_contents WHERE article_id = ANY($1::uuid[])
UNION SELECT title FROM newsloom.article_revisions WHERE article_id = ANY($1::uuid[])"""

# $1 articles, $2 titles
STORIES_OF: Final = """
SELECT story_id FROM newsloom.story_articles WHERE article_id = ANY($1::uuid[])
UNION SELECT story_id FROM newsloom.stories WHERE title = ANY($2::text[]) AND merged_into IS NULL"""

# $1 articles. A linker that holds one of them in memory hears of it by the change log. Of a root
# that has left its window it knows no more than the id, and would go on giving it copies: let it
# begin anew from what is stored.
FENCE_LINKER: Final = """
UPDATE newsloom.cursors AS k SET epoch = k.epoch + 1, updated_at = now()
WHERE k.reader = 'link' AND EXISTS (
    SELECT FROM newsloom.copies AS c
    LEFT JOIN newsloom.link_states AS s ON s.article_id = c.copy_of
    WHERE c.copy_of = ANY($1::uuid[])
        AND (s.article_id IS NULL
            OR (s.first_seen_at < k.window_from AND s.sequence <= k.trim_sequence)))"""

# $1 articles. What other articles name as related stays: ids alone, and no view shows them.
DELETES: Final = {
    name: f"DELETE FROM newsloom.{table} WHERE article_id = ANY($1::uuid[])"  # noqa: S608 - constants
    for name, table in (
        ("contents", "article_contents"),
        ("revisions", "article_revisions"),
        ("signals", "article_signals"),
        ("related", "related_articles"),
        ("link_states", "link_states"),
        ("copies", "copies"),
        ("story_articles", "story_articles"),
    )
}

# $1 articles. The ids of the keys stay: they are what later deliveries are refused by.
BLANK_URLS: Final = """
UPDATE newsloom.article_urls SET url = '', canonical_url = ''
WHERE article_id = ANY($1::uuid[]) AND (url <> '' OR canonical_url <> '')"""

# $1 articles that were copies of what goes: the root among them, as the linker's root_key() has it
NEW_ROOT: Final = """
SELECT a.article_id FROM newsloom.articles AS a
LEFT JOIN newsloom.link_states AS s USING (article_id)
LEFT JOIN newsloom.article_contents AS c USING (article_id)
WHERE a.article_id = ANY($1::uuid[])
ORDER BY GREATEST(
    coalesce(s.published_at, c.published_at),
    coalesce(s.first_seen_at, a.first_seen_at)
        - CASE WHEN coalesce(s.published_at, c.published_at) IS NULL THEN interval '0'
            ELSE interval '48 hours' END), a.article_id
LIMIT 1"""

# $1 the new root
FREE_ROOT: Final = "DELETE FROM newsloom.copies WHERE article_id = $1"

# $1 copies, $2 their new root. The figures are those of the pair where it was verified.
MOVE_COPIES: Final = """
UPDATE newsloom.copies AS c
SET copy_of = $2, jaccard = coalesce(p.jaccard, c.jaccard),
    containment = coalesce(p.containment, c.containment)
FROM unnest($1::uuid[]) AS m (article_id)
LEFT JOIN LATERAL (
    SELECT e.jaccard::real, e.containment::real
    FROM newsloom.link_states AS s,
        unnest(s.pair_ids, s.pair_jaccard, s.pair_containment) AS e (other_id, jaccard, containment)
    WHERE s.article_id = m.article_id AND e.other_id = $2 LIMIT 1
) AS p ON true
WHERE c.article_id = m.article_id"""

CHANGED_COPIES: Final = """
INSERT INTO newsloom.changes (article_id, version, kind, other_id, observed_at)
VALUES ($1, $2, $3, $4, $5)"""

# $1 stories: a story without articles would keep its last title
EMPTY_STORIES: Final = """
UPDATE newsloom.stories SET title = '' WHERE story_id = ANY($1::uuid[]) AND article_count = 0"""

# $1 titles. Stories that went into another one are in no view, but here.
BLANK_MERGED_STORIES: Final = """
UPDATE newsloom.stories SET title = '' WHERE title = ANY($1::text[]) AND merged_into IS NOT NULL"""

# $1 since when set aside. The oldest first; those without bytes have nothing to carry.
LETTERS: Final = """
SELECT consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset, key, value, headers
FROM newsloom.dead_letters
WHERE created_at >= $1 AND (key IS NOT NULL OR value IS NOT NULL)
ORDER BY created_at"""

LETTER_KEYS: Final = (
    "consumer_group",
    "kafka_topic",
    "kafka_partition",
    "incarnation",
    "kafka_offset",
)

# $1 groups, $2 Kafka topics, $3 partitions, $4 incarnations, $5 offsets. The rows stay, as those of
# refused deliveries do: the outcomes still add up, and nothing is left to read or to replay.
REMOVE_LETTERS: Final = """
UPDATE newsloom.dead_letters AS d
SET key = NULL, value = NULL, headers = NULL, reason = 'erased',
    detail = 'the article was taken down; later deliveries stay refused'
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::bigint[])
    AS n (consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset)
WHERE (d.consumer_group, d.kafka_topic, d.kafka_partition, d.incarnation, d.kafka_offset)
    = (n.consumer_group, n.kafka_topic, n.kafka_partition, n.incarnation, n.kafka_offset)"""

# $1 articles. What the order and the signals of the article were is nobody's business any more.
TOMBSTONE: Final = """
UPDATE newsloom.articles
SET erased_at = now(), version = version + 1, revision = 0,
    content_hash = decode(repeat('00', 32), 'hex'), quality = NULL, heat = NULL, ratings = NULL,
    secured = NULL
WHERE article_id = ANY($1::uuid[])"""

# $1 the article
ERASED_CHANGE: Final = """
INSERT INTO newsloom.changes (article_id, version, kind, observed_at)
SELECT article_id, version, 'erased', now() FROM newsloom.articles WHERE article_id = $1"""

# $1 who, $2 the article, $3 what went, $4 why
AUDIT: Final = """
INSERT INTO newsloom.audit_log (os_user, action, subject, after, reason)
VALUES ($1, 'erase', $2, $3::jsonb, $4)"""
