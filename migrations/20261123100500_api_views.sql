-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- The contract with readers: columns are added at the end, never renamed or removed. `secured` and the
-- bytes of dead letters are in no view.

CREATE VIEW api.articles AS
SELECT
    a.article_id,
    c.canonical_url,
    c.title,
    c.excerpt,
    c.body,
    c.language,
    c.type,
    c.category,
    c.provider_name,
    c.provider_domain,
    c.published_at,
    a.observed_at,
    a.first_seen_at,
    c.observed_at AS revised_at,
    a.revision,
    a.quality,
    a.heat,
    c.is_published,
    c.is_removed,
    c.is_mention,
    coalesce(c.topics, '{}') AS topics,
    c.lead_image_url,
    c.word_count,
    k.copy_of,
    s.story_id,
    c.updated_at,
    c.reading_seconds,
    coalesce(c.tags, '{}') AS tags,
    coalesce(c.categories, '{}') AS categories,
    coalesce(c.levels, '{}') AS levels,
    c.declared_language,
    c.language_score,
    c.locale,
    c.featured_content,
    c.price,
    c.length,
    c.actions,
    c.items,
    c.extra,
    c.provider_images,
    c.provider_extra,
    a.ratings,
    a.article_key,
    a.version,
    coalesce(c.changed_fields, '{}') AS changed_fields
FROM newsloom.articles AS a
JOIN newsloom.article_contents AS c USING (article_id)
LEFT JOIN newsloom.copies AS k USING (article_id)
LEFT JOIN newsloom.story_articles AS s USING (article_id)
WHERE a.merged_into IS NULL AND a.erased_at IS NULL;

COMMENT ON VIEW api.articles IS
    'Every article, mentions included (is_mention); merged and erased ones are not here. api.current_id finds the article of a merged id.';
COMMENT ON COLUMN api.articles.article_id IS 'Stable id, a hash of the URL it was first known by.';
COMMENT ON COLUMN api.articles.canonical_url IS 'Its address, canonical and clickable.';
COMMENT ON COLUMN api.articles.title IS 'Title, plain text.';
COMMENT ON COLUMN api.articles.excerpt IS 'Excerpt, plain text.';
COMMENT ON COLUMN api.articles.body IS 'Text, if the record had any.';
COMMENT ON COLUMN api.articles.language IS 'ISO 639-1: declared or detected; NULL: unknown.';
COMMENT ON COLUMN api.articles.type IS 'article, video, download, course, ...';
COMMENT ON COLUMN api.articles.category IS 'The record''s category.';
COMMENT ON COLUMN api.articles.provider_name IS 'Who published it.';
COMMENT ON COLUMN api.articles.provider_domain IS 'Registered domain of the provider.';
COMMENT ON COLUMN api.articles.published_at IS 'When it was published, as the record says; NULL: unknown.';
COMMENT ON COLUMN api.articles.observed_at IS 'When the newest delivery of it was observed.';
COMMENT ON COLUMN api.articles.first_seen_at IS 'When it was first observed, as a record or as a mention.';
COMMENT ON COLUMN api.articles.revised_at IS 'When its present content was first observed.';
COMMENT ON COLUMN api.articles.revision IS 'Number of the present content, from 1; 0 for a mention.';
COMMENT ON COLUMN api.articles.quality IS 'As published, changing; NULL: unknown.';
COMMENT ON COLUMN api.articles.heat IS 'As published, changing; NULL: unknown.';
COMMENT ON COLUMN api.articles.is_published IS 'The record''s published.';
COMMENT ON COLUMN api.articles.is_removed IS 'The provider took it back.';
COMMENT ON COLUMN api.articles.is_mention IS 'Known only from another record''s related list.';
COMMENT ON COLUMN api.articles.topics IS 'News subjects.';
COMMENT ON COLUMN api.articles.lead_image_url IS 'The picture to show beside the title.';
COMMENT ON COLUMN api.articles.word_count IS 'Words of the text.';
COMMENT ON COLUMN api.articles.copy_of IS 'The article that this one repeats; NULL: an original.';
COMMENT ON COLUMN api.articles.story_id IS 'The story it belongs to.';
COMMENT ON COLUMN api.articles.updated_at IS 'When it was updated, as the record says.';
COMMENT ON COLUMN api.articles.reading_seconds IS 'Estimated time to read it.';
COMMENT ON COLUMN api.articles.tags IS 'The record''s tags.';
COMMENT ON COLUMN api.articles.categories IS 'The record''s categories.';
COMMENT ON COLUMN api.articles.levels IS 'The record''s levels (of a course).';
COMMENT ON COLUMN api.articles.declared_language IS 'The record''s language, as written.';
COMMENT ON COLUMN api.articles.language_score IS 'How sure the detection of the language is, 0 to 1.';
COMMENT ON COLUMN api.articles.locale IS 'The record''s locale.';
COMMENT ON COLUMN api.articles.featured_content IS 'HTML as published: untrusted.';
COMMENT ON COLUMN api.articles.price IS 'The record''s price, as written.';
COMMENT ON COLUMN api.articles.length IS 'The record''s length, as written.';
COMMENT ON COLUMN api.articles.actions IS 'The record''s actions.';
COMMENT ON COLUMN api.articles.items IS 'The record''s items.';
COMMENT ON COLUMN api.articles.extra IS 'Fields that newsloom does not know.';
COMMENT ON COLUMN api.articles.provider_images IS 'Pictures of the provider.';
COMMENT ON COLUMN api.articles.provider_extra IS 'Unknown fields of the provider.';
COMMENT ON COLUMN api.articles.ratings IS 'How readers rated it: {"count", "average"}.';
COMMENT ON COLUMN api.articles.article_key IS 'The canonical URL it was first known by, without scheme and www.';
COMMENT ON COLUMN api.articles.version IS 'Rises with every public change; the change events carry it.';
COMMENT ON COLUMN api.articles.changed_fields IS 'What the present revision changed.';

CREATE VIEW api.article_revisions AS
SELECT
    a.article_id,
    a.revision,
    c.observed_at,
    c.title,
    c.excerpt,
    coalesce(c.changed_fields, '{}') AS changed_fields,
    true AS is_current,
    c.body,
    c.canonical_url,
    c.published_at,
    c.updated_at,
    c.is_removed,
    coalesce(c.topics, '{}') AS topics,
    c.provider_name,
    c.provider_domain,
    c.lead_image_url,
    c.word_count
FROM newsloom.articles AS a
JOIN newsloom.article_contents AS c USING (article_id)
WHERE a.revision > 0 AND a.merged_into IS NULL AND a.erased_at IS NULL
UNION ALL
SELECT
    r.article_id,
    r.revision,
    r.observed_at,
    r.title,
    r.excerpt,
    coalesce(r.changed_fields, '{}'),
    false,
    r.body,
    r.canonical_url,
    r.published_at,
    r.updated_at,
    r.is_removed,
    coalesce(r.topics, '{}'),
    r.provider_name,
    r.provider_domain,
    r.lead_image_url,
    r.word_count
FROM newsloom.article_revisions AS r
JOIN newsloom.articles AS a USING (article_id)
WHERE a.erased_at IS NULL;

COMMENT ON VIEW api.article_revisions IS
    'Every version of every article, the present one included; mentions have none.';
COMMENT ON COLUMN api.article_revisions.article_id IS 'The article.';
COMMENT ON COLUMN api.article_revisions.revision IS 'Number of the version, from 1.';
COMMENT ON COLUMN api.article_revisions.observed_at IS 'When this version was first observed.';
COMMENT ON COLUMN api.article_revisions.title IS 'Title at that time.';
COMMENT ON COLUMN api.article_revisions.excerpt IS 'Excerpt at that time.';
COMMENT ON COLUMN api.article_revisions.changed_fields IS 'What differs from the version before; empty for the first.';
COMMENT ON COLUMN api.article_revisions.is_current IS 'Whether it is the present version.';
COMMENT ON COLUMN api.article_revisions.body IS 'Text at that time.';
COMMENT ON COLUMN api.article_revisions.canonical_url IS 'Address at that time.';
COMMENT ON COLUMN api.article_revisions.published_at IS 'When it was published, as the record said then.';
COMMENT ON COLUMN api.article_revisions.updated_at IS 'When it was updated, as the record said then.';
COMMENT ON COLUMN api.article_revisions.is_removed IS 'Whether the provider had taken it back.';
COMMENT ON COLUMN api.article_revisions.topics IS 'News subjects at that time.';
COMMENT ON COLUMN api.article_revisions.provider_name IS 'Provider at that time.';
COMMENT ON COLUMN api.article_revisions.provider_domain IS 'Domain of the provider at that time.';
COMMENT ON COLUMN api.article_revisions.lead_image_url IS 'Lead picture at that time.';
COMMENT ON COLUMN api.article_revisions.word_count IS 'Words of the text at that time.';

CREATE VIEW api.article_urls AS
SELECT
    u.article_id,
    u.url,
    u.kind::text AS kind,
    u.canonical_url
FROM newsloom.article_urls AS u
JOIN newsloom.articles AS a USING (article_id)
WHERE a.erased_at IS NULL;

COMMENT ON VIEW api.article_urls IS
    'Every address by which an article is known.';
COMMENT ON COLUMN api.article_urls.article_id IS 'The article.';
COMMENT ON COLUMN api.article_urls.url IS 'The address as it was given.';
COMMENT ON COLUMN api.article_urls.kind IS 'Which field it came from: original, web, amp or cdn_amp.';
COMMENT ON COLUMN api.article_urls.canonical_url IS 'The address in canonical form; two that differ only in scheme or www. are one.';

CREATE VIEW api.article_images AS
SELECT
    c.article_id,
    i.position::integer AS position,
    i.image ->> 'url' AS url,
    (i.image ->> 'width')::integer AS width,
    (i.image ->> 'height')::integer AS height,
    i.image ->> 'title' AS title,
    i.image ->> 'attribution' AS attribution,
    (i.image ->> 'is_cached')::boolean AS is_cached
FROM newsloom.article_contents AS c
JOIN newsloom.articles AS a USING (article_id)
CROSS JOIN LATERAL jsonb_array_elements(c.images) WITH ORDINALITY AS i (image, position)
WHERE a.erased_at IS NULL;

COMMENT ON VIEW api.article_images IS
    'The pictures of each article''s present content.';
COMMENT ON COLUMN api.article_images.article_id IS 'The article.';
COMMENT ON COLUMN api.article_images.position IS 'Place in the record''s list, from 1.';
COMMENT ON COLUMN api.article_images.url IS 'Address of the picture.';
COMMENT ON COLUMN api.article_images.width IS 'Pixels; NULL: unknown.';
COMMENT ON COLUMN api.article_images.height IS 'Pixels; NULL: unknown.';
COMMENT ON COLUMN api.article_images.title IS 'Title of the picture.';
COMMENT ON COLUMN api.article_images.attribution IS 'Whose picture it is.';
COMMENT ON COLUMN api.article_images.is_cached IS 'The record''s isCached.';

CREATE VIEW api.related_articles AS
SELECT
    r.article_id,
    r.position::integer AS position,
    r.related_article_id
FROM newsloom.related_articles AS r
JOIN newsloom.articles AS a USING (article_id)
JOIN newsloom.articles AS b ON b.article_id = r.related_article_id
WHERE a.erased_at IS NULL AND b.erased_at IS NULL;

COMMENT ON VIEW api.related_articles IS
    'The related lists: which articles the record of an article names.';
COMMENT ON COLUMN api.related_articles.article_id IS 'The article whose record has the list.';
COMMENT ON COLUMN api.related_articles.position IS 'Place in the list, from 1.';
COMMENT ON COLUMN api.related_articles.related_article_id IS 'The article that is named there.';

CREATE VIEW api.article_signals AS
SELECT
    a.article_id,
    a.signals_at AS observed_at,
    a.quality,
    a.heat,
    a.ratings,
    true AS is_current
FROM newsloom.articles AS a
WHERE a.merged_into IS NULL AND a.erased_at IS NULL
UNION ALL
SELECT
    s.article_id,
    s.observed_at,
    s.quality,
    s.heat,
    s.ratings,
    false
FROM newsloom.article_signals AS s
JOIN newsloom.articles AS a USING (article_id)
WHERE a.erased_at IS NULL;

COMMENT ON VIEW api.article_signals IS
    'How quality, heat and ratings of an article went, the present values included.';
COMMENT ON COLUMN api.article_signals.article_id IS 'The article.';
COMMENT ON COLUMN api.article_signals.observed_at IS 'Since when these values were valid.';
COMMENT ON COLUMN api.article_signals.quality IS 'As published; NULL: unknown.';
COMMENT ON COLUMN api.article_signals.heat IS 'As published; NULL: unknown.';
COMMENT ON COLUMN api.article_signals.ratings IS '{"count", "average"}.';
COMMENT ON COLUMN api.article_signals.is_current IS 'Whether they still are valid.';

CREATE VIEW api.copies AS
SELECT
    k.article_id,
    k.copy_of,
    k.jaccard,
    k.containment,
    k.algorithm_version
FROM newsloom.copies AS k
JOIN newsloom.articles AS a USING (article_id)
WHERE a.merged_into IS NULL AND a.erased_at IS NULL;

COMMENT ON VIEW api.copies IS
    'Articles whose text repeats another''s.';
COMMENT ON COLUMN api.copies.article_id IS 'The copy.';
COMMENT ON COLUMN api.copies.copy_of IS 'The article it repeats.';
COMMENT ON COLUMN api.copies.jaccard IS 'Shared share of all shingles of both texts, 0 to 1.';
COMMENT ON COLUMN api.copies.containment IS 'Shared share of the shorter text''s shingles, 0 to 1.';
COMMENT ON COLUMN api.copies.algorithm_version IS 'Which rules decided it.';

CREATE VIEW api.stories AS
SELECT
    s.story_id,
    s.title,
    s.article_count,
    s.provider_count,
    s.first_published_at,
    s.last_published_at,
    s.version
FROM newsloom.stories AS s
WHERE s.merged_into IS NULL;

COMMENT ON VIEW api.stories IS
    'Stories: articles that tell one event.';
COMMENT ON COLUMN api.stories.story_id IS 'The story.';
COMMENT ON COLUMN api.stories.title IS 'Title of the article that stands for it.';
COMMENT ON COLUMN api.stories.article_count IS 'How many articles tell it.';
COMMENT ON COLUMN api.stories.provider_count IS 'How many providers tell it.';
COMMENT ON COLUMN api.stories.first_published_at IS 'When its first article was published.';
COMMENT ON COLUMN api.stories.last_published_at IS 'When its latest article was published.';
COMMENT ON COLUMN api.stories.version IS 'Rises with every public change.';

CREATE VIEW api.story_articles AS
SELECT
    s.story_id,
    s.article_id,
    s.score
FROM newsloom.story_articles AS s
JOIN newsloom.articles AS a USING (article_id)
WHERE a.merged_into IS NULL AND a.erased_at IS NULL;

COMMENT ON VIEW api.story_articles IS
    'Which articles tell which story.';
COMMENT ON COLUMN api.story_articles.story_id IS 'The story.';
COMMENT ON COLUMN api.story_articles.article_id IS 'The article.';
COMMENT ON COLUMN api.story_articles.score IS 'How well it fits, 0 to 1.';

CREATE VIEW api.providers AS
SELECT
    c.provider_domain,
    (array_agg(c.provider_name ORDER BY c.observed_at DESC)
        FILTER (WHERE c.provider_name IS NOT NULL))[1] AS name,
    count(*) FILTER (WHERE NOT c.is_mention) AS article_count,
    max(a.observed_at) AS last_seen_at
FROM newsloom.article_contents AS c
JOIN newsloom.articles AS a USING (article_id)
WHERE a.erased_at IS NULL AND c.provider_domain IS NOT NULL
GROUP BY c.provider_domain;

COMMENT ON VIEW api.providers IS
    'Who publishes. Counted when asked: a row that every delivery had to update would hold ingest back.';
COMMENT ON COLUMN api.providers.provider_domain IS 'Registered domain.';
COMMENT ON COLUMN api.providers.name IS 'Name in its newest article.';
COMMENT ON COLUMN api.providers.article_count IS 'Its articles, mentions aside.';
COMMENT ON COLUMN api.providers.last_seen_at IS 'When anything of it was last observed.';

CREATE VIEW api.dead_letters AS
SELECT
    d.kafka_topic,
    d.kafka_partition,
    d.kafka_offset,
    d.reason,
    d.detail,
    d.observed_at,
    d.replayed_at,
    d.created_at,
    d.relayed_at,
    d.replay_count,
    d.consumer_group,
    d.incarnation
FROM newsloom.dead_letters AS d;

COMMENT ON VIEW api.dead_letters IS
    'Deliveries that could not be stored, and why; their bytes are not shown.';
COMMENT ON COLUMN api.dead_letters.kafka_topic IS 'Kafka topic.';
COMMENT ON COLUMN api.dead_letters.kafka_partition IS 'Partition of the Kafka topic.';
COMMENT ON COLUMN api.dead_letters.kafka_offset IS 'Offset of the delivery.';
COMMENT ON COLUMN api.dead_letters.reason IS 'A code of a closed set.';
COMMENT ON COLUMN api.dead_letters.detail IS 'What to mend.';
COMMENT ON COLUMN api.dead_letters.observed_at IS 'When the delivery was first observed.';
COMMENT ON COLUMN api.dead_letters.replayed_at IS 'When it was last tried again.';
COMMENT ON COLUMN api.dead_letters.created_at IS 'When it was set aside.';
COMMENT ON COLUMN api.dead_letters.relayed_at IS 'When it was sent to the Kafka topic of dead letters.';
COMMENT ON COLUMN api.dead_letters.replay_count IS 'How often it was tried again.';
COMMENT ON COLUMN api.dead_letters.consumer_group IS 'Kafka consumer group.';
COMMENT ON COLUMN api.dead_letters.incarnation IS 'Of the Kafka topic.';

CREATE VIEW api.ingest_progress AS
SELECT
    o.kafka_topic,
    o.kafka_partition,
    o.next_offset,
    o.created,
    o.revised,
    o.refreshed,
    o.unchanged,
    o.stale,
    o.rejected,
    o.parked_reason,
    o.updated_at,
    o.skipped,
    o.consumer_group,
    o.incarnation
FROM newsloom.ingest_offsets AS o;

COMMENT ON VIEW api.ingest_progress IS
    'How far each partition has been ingested, and with which outcomes.';
COMMENT ON COLUMN api.ingest_progress.kafka_topic IS 'Kafka topic.';
COMMENT ON COLUMN api.ingest_progress.kafka_partition IS 'Partition of the Kafka topic.';
COMMENT ON COLUMN api.ingest_progress.next_offset IS 'The first offset that has no outcome yet.';
COMMENT ON COLUMN api.ingest_progress.created IS 'Deliveries that made an article.';
COMMENT ON COLUMN api.ingest_progress.revised IS 'Deliveries that changed its content.';
COMMENT ON COLUMN api.ingest_progress.refreshed IS 'Deliveries that changed its signals or `secured` only.';
COMMENT ON COLUMN api.ingest_progress.unchanged IS 'Deliveries that changed nothing.';
COMMENT ON COLUMN api.ingest_progress.stale IS 'Deliveries older than what was known.';
COMMENT ON COLUMN api.ingest_progress.rejected IS 'Deliveries set aside as dead letters.';
COMMENT ON COLUMN api.ingest_progress.parked_reason IS 'Why it waits for an operator; NULL: it runs.';
COMMENT ON COLUMN api.ingest_progress.updated_at IS 'When it last moved.';
COMMENT ON COLUMN api.ingest_progress.skipped IS 'Offsets passed over by an operator.';
COMMENT ON COLUMN api.ingest_progress.consumer_group IS 'Kafka consumer group.';
COMMENT ON COLUMN api.ingest_progress.incarnation IS 'Raised when the Kafka topic was made anew.';

CREATE FUNCTION api.current_id(article_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT coalesce(a.merged_into, a.article_id)
    FROM newsloom.articles AS a
    WHERE a.article_id = current_id.article_id
);
COMMENT ON FUNCTION api.current_id(uuid) IS
    'The id under which an article is found today: another one after a merge; NULL: never heard of.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.current_id(uuid);
DROP VIEW api.ingest_progress;
DROP VIEW api.dead_letters;
DROP VIEW api.providers;
DROP VIEW api.story_articles;
DROP VIEW api.stories;
DROP VIEW api.copies;
DROP VIEW api.article_signals;
DROP VIEW api.related_articles;
DROP VIEW api.article_images;
DROP VIEW api.article_urls;
DROP VIEW api.article_revisions;
DROP VIEW api.articles;
