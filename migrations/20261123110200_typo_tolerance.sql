-- migrate:up
SET LOCAL lock_timeout = '5s';

-- pg_trgm comes with Postgres, but not every build and not every service has it. Without it search
-- works, and finds no misspelt words. It is a trusted extension: whoever may create in the database
-- may create it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'pg_trgm')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_trgm')
    THEN
        CREATE EXTENSION pg_trgm WITH SCHEMA public;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR undefined_file OR invalid_schema_name THEN
        RAISE NOTICE 'search goes without pg_trgm; to add it later: CREATE EXTENSION pg_trgm; SELECT newsloom.enable_typo_tolerance();';
END
$$;

SET LOCAL ROLE newsloom_owner;

CREATE FUNCTION newsloom.enable_typo_tolerance() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    home text := (
        SELECT quote_ident(n.nspname) FROM pg_extension AS e
        JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm');
BEGIN
    IF home IS NULL THEN
        RETURN false;
    END IF;
    -- Not CONCURRENTLY, which no function can do: on a filled database make this index first.
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS article_contents_title_trgm_idx ON newsloom.article_contents '
        'USING gin (lower(title) %s.gin_trgm_ops) WHERE NOT is_mention', home);
    EXECUTE format($definition$
CREATE OR REPLACE FUNCTION newsloom.similar_titles(
    query text,
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
SET pg_trgm.word_similarity_threshold = 0.5
AS $$
#variable_conflict use_column
DECLARE
    -- The three longest words: they say most, and a third one hardly ever changes the answer.
    words text[] := ARRAY(
        SELECT w.lexeme FROM unnest(to_tsvector('simple', similar_titles.query)) AS w
        WHERE length(w.lexeme) BETWEEN 4 AND 40 ORDER BY length(w.lexeme) DESC, w.lexeme LIMIT 3);
BEGIN
    IF words = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        c.article_id,
        LEAST(c.published_at, c.observed_at),
        %1$s.word_similarity(lower(left(similar_titles.query, 200)), lower(left(c.title, 500)))
    FROM newsloom.article_contents AS c
    WHERE NOT c.is_mention
        AND NOT c.is_removed
        AND words[1] OPERATOR(%1$s.<%%) lower(c.title)
        AND (words[2] IS NULL OR words[2] OPERATOR(%1$s.<%%) lower(c.title))
        AND (words[3] IS NULL OR words[3] OPERATOR(%1$s.<%%) lower(c.title))
        AND (similar_titles.since IS NULL
            OR LEAST(c.published_at, c.observed_at) >= similar_titles.since)
        AND (similar_titles.until IS NULL
            OR LEAST(c.published_at, c.observed_at) < similar_titles.until)
        AND (similar_titles.language IS NULL OR c.language = similar_titles.language)
        AND (similar_titles.domain IS NULL OR c.provider_domain = similar_titles.domain)
        AND (similar_titles.provider_name IS NULL
            OR lower(c.provider_name) = similar_titles.provider_name)
        AND (similar_titles.topic IS NULL OR EXISTS (
            SELECT FROM unnest(c.topics) AS t (topic) WHERE lower(t.topic) = similar_titles.topic))
    ORDER BY LEAST(c.published_at, c.observed_at) DESC
    LIMIT similar_titles.max_candidates;
END
$$
$definition$, home);
    RETURN true;
END
$body$;
COMMENT ON FUNCTION newsloom.enable_typo_tolerance() IS
    'Lets api.search find misspelt words, with pg_trgm; tells whether it could. For the owner, after CREATE EXTENSION pg_trgm. Builds an index, which holds up ingest unless CREATE INDEX CONCURRENTLY has made it before.';

SELECT newsloom.enable_typo_tolerance();

RESET ROLE;

-- migrate:down
SET LOCAL ROLE newsloom_owner;
DROP FUNCTION newsloom.enable_typo_tolerance();
DROP INDEX IF EXISTS newsloom.article_contents_title_trgm_idx;
CREATE OR REPLACE FUNCTION newsloom.similar_titles(
    query text,
    since timestamptz,
    until timestamptz,
    language text,
    domain text,
    provider_name text,
    topic text,
    max_candidates integer
) RETURNS TABLE (article_id uuid, moment timestamptz, rank real)
LANGUAGE sql STABLE
ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NULL::uuid, NULL::timestamptz, NULL::real WHERE false
$$;
ALTER FUNCTION newsloom.similar_titles(text, timestamptz, timestamptz, text, text, text, text, integer)
    RESET ALL;
ALTER FUNCTION newsloom.similar_titles(text, timestamptz, timestamptz, text, text, text, text, integer)
    SET search_path = pg_catalog, pg_temp;
RESET ROLE;
-- The extension stays: something else may use it.
