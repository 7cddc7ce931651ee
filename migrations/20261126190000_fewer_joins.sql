-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- An article has a content row exactly while it is neither merged nor erased: both take the row away
-- in their own transaction (a check of the fault tests). So the content row is what makes an article
-- public, and the head row need not be looked up to know it. Left-joined by its key it costs nothing
-- where no column of it is asked for: the planner drops it.

CREATE OR REPLACE VIEW api.articles AS
SELECT
    c.article_id,
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
FROM newsloom.article_contents AS c
LEFT JOIN newsloom.articles AS a USING (article_id)
LEFT JOIN newsloom.copies AS k USING (article_id)
LEFT JOIN newsloom.story_articles AS s USING (article_id);

CREATE OR REPLACE VIEW api.article_images AS
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
CROSS JOIN LATERAL jsonb_array_elements(c.images) WITH ORDINALITY AS i (image, position);

-- Erasing an article takes its own list away; that others name it stays, and is shown to nobody.
CREATE OR REPLACE VIEW api.related_articles AS
SELECT
    r.article_id,
    r.position::integer AS position,
    r.related_article_id
FROM newsloom.related_articles AS r
JOIN newsloom.articles AS b ON b.article_id = r.related_article_id
WHERE b.erased_at IS NULL;

-- As before, but the newest first and the query of the article's language only then, until there are
-- enough: that reads the search column, which is stored beside the table, of a thousand articles
-- rather than of all that match.
CREATE OR REPLACE FUNCTION newsloom.matching_articles(
    configs regconfig[],
    queries tsquery[],
    since timestamptz,
    until timestamptz,
    language text,
    domain text,
    provider_name text,
    topic text,
    max_candidates integer
) RETURNS TABLE (article_id uuid, moment timestamptz, rank real)
LANGUAGE plpgsql STABLE
ROWS 100
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    -- The index is asked for what any language would match, each article then for its own.
    anything CONSTANT tsquery := (
        SELECT string_agg(DISTINCT '(' || q.query::text || ')', ' | ')::tsquery
        FROM unnest(queries) AS q (query) WHERE numnode(q.query) > 0
    );
BEGIN
    IF anything IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT n.article_id, n.moment, ts_rank_cd(n.search, n.query, 1)
    FROM (
        SELECT f.article_id, f.moment, f.search, f.query
        FROM (
            SELECT
                c.article_id,
                LEAST(c.published_at, c.observed_at) AS moment,
                c.search,
                queries[array_position(configs, newsloom.search_config(c.language))] AS query
            FROM newsloom.article_contents AS c
            WHERE NOT c.is_mention
                AND NOT c.is_removed
                AND c.search @@ anything
                AND (matching_articles.since IS NULL
                    OR LEAST(c.published_at, c.observed_at) >= matching_articles.since)
                AND (matching_articles.until IS NULL
                    OR LEAST(c.published_at, c.observed_at) < matching_articles.until)
                AND (matching_articles.language IS NULL OR c.language = matching_articles.language)
                AND (matching_articles.domain IS NULL OR c.provider_domain = matching_articles.domain)
                AND (matching_articles.provider_name IS NULL
                    OR lower(c.provider_name) = matching_articles.provider_name)
                AND (matching_articles.topic IS NULL OR EXISTS (
                    SELECT FROM unnest(c.topics) AS t (topic) WHERE lower(t.topic) = matching_articles.topic))
            ORDER BY LEAST(c.published_at, c.observed_at) DESC
            OFFSET 0
        ) AS f
        -- As CASE, because the planner would take a bare @@ with an unknown query for very rare.
        WHERE CASE WHEN f.search @@ f.query THEN true ELSE false END
        ORDER BY f.moment DESC
        LIMIT matching_articles.max_candidates
    ) AS n;
END
$$;

-- Where ingest was asked to, it logs a change of signals alone as well.
COMMENT ON COLUMN newsloom.changes.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, refreshed (where asked for), and the words of the linker.';
COMMENT ON COLUMN api.change.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, copy_linked, copy_unlinked, story_created, story_grown, story_shrunk, story_merged, story_split; refreshed where ingest was asked to log it; expect others.';

RESET ROLE;

-- migrate:down
SET LOCAL ROLE newsloom_owner;
COMMENT ON COLUMN api.change.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, copy_linked, copy_unlinked, story_created, story_grown, story_shrunk, story_merged, story_split; expect others.';
COMMENT ON COLUMN newsloom.changes.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, and the words of the linker.';
CREATE OR REPLACE VIEW api.articles AS
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

CREATE OR REPLACE VIEW api.article_images AS
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

CREATE OR REPLACE VIEW api.related_articles AS
SELECT
    r.article_id,
    r.position::integer AS position,
    r.related_article_id
FROM newsloom.related_articles AS r
JOIN newsloom.articles AS a USING (article_id)
JOIN newsloom.articles AS b ON b.article_id = r.related_article_id
WHERE a.erased_at IS NULL AND b.erased_at IS NULL;

CREATE OR REPLACE FUNCTION newsloom.matching_articles(
    configs regconfig[],
    queries tsquery[],
    since timestamptz,
    until timestamptz,
    language text,
    domain text,
    provider_name text,
    topic text,
    max_candidates integer
) RETURNS TABLE (article_id uuid, moment timestamptz, rank real)
LANGUAGE plpgsql STABLE
ROWS 100
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    -- The index is asked for what any language would match, each article then for its own.
    anything CONSTANT tsquery := (
        SELECT string_agg(DISTINCT '(' || q.query::text || ')', ' | ')::tsquery
        FROM unnest(queries) AS q (query) WHERE numnode(q.query) > 0
    );
BEGIN
    IF anything IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT f.article_id, f.moment, ts_rank_cd(f.search, f.query, 1)
    FROM (
        SELECT
            c.article_id,
            LEAST(c.published_at, c.observed_at) AS moment,
            c.search,
            queries[array_position(configs, newsloom.search_config(c.language))] AS query
        FROM newsloom.article_contents AS c
        WHERE NOT c.is_mention
            AND NOT c.is_removed
            AND c.search @@ anything
            -- As CASE, because the planner would take a bare @@ with an unknown query for very rare.
            AND CASE WHEN c.search @@ queries[array_position(configs, newsloom.search_config(c.language))]
                THEN true ELSE false END
            AND (matching_articles.since IS NULL
                OR LEAST(c.published_at, c.observed_at) >= matching_articles.since)
            AND (matching_articles.until IS NULL
                OR LEAST(c.published_at, c.observed_at) < matching_articles.until)
            AND (matching_articles.language IS NULL OR c.language = matching_articles.language)
            AND (matching_articles.domain IS NULL OR c.provider_domain = matching_articles.domain)
            AND (matching_articles.provider_name IS NULL
                OR lower(c.provider_name) = matching_articles.provider_name)
            AND (matching_articles.topic IS NULL OR EXISTS (
                SELECT FROM unnest(c.topics) AS t (topic) WHERE lower(t.topic) = matching_articles.topic))
        ORDER BY LEAST(c.published_at, c.observed_at) DESC
        LIMIT matching_articles.max_candidates
    ) AS f;
END
$$;
RESET ROLE;
