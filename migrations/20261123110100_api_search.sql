-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Functions of `api` that need more than its views are SECURITY DEFINER: they run as the owner of the
-- tables, with a fixed search_path, take values only (never a piece of SQL) and change nothing. All
-- others run with the rights of whoever calls them.

CREATE FUNCTION newsloom.search_queries(
    query text, language text, OUT configs regconfig[], OUT queries tsquery[]
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT array_agg(n.config), array_agg(websearch_to_tsquery(n.config, search_queries.query))
FROM (
    SELECT newsloom.search_config(search_queries.language) AS config
    WHERE search_queries.language IS NOT NULL
    UNION ALL
    SELECT g.oid::regconfig FROM pg_ts_config AS g
    WHERE g.cfgnamespace = 'pg_catalog'::regnamespace AND search_queries.language IS NULL
) AS n
$$;
COMMENT ON FUNCTION newsloom.search_queries(text, text) IS
    'What somebody types, as each language of the articles reads it: stems and stop words differ.';

CREATE FUNCTION newsloom.prefix_query(query text) RETURNS tsquery
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
-- Nothing for operators of web search: what they exclude or quote must not come back here.
SELECT to_tsquery('simple', string_agg(
    quote_literal(replace(w.lexeme, '\', '\\')) || CASE WHEN length(w.lexeme) >= 3 THEN ':*' ELSE '' END,
    ' & '))
FROM unnest(to_tsvector('simple', prefix_query.query)) AS w (lexeme, positions, weights)
WHERE prefix_query.query !~* '"|(^|\s)-|\sor\s'
HAVING max(length(w.lexeme)) >= 3
$$;
COMMENT ON FUNCTION newsloom.prefix_query(text) IS
    'The words of a query as beginnings of words; NULL: too short or more than words.';

-- Ranks the newest matches only: the words of a common query are in half of all articles, and reading
-- every one of them to rank it would take minutes.
CREATE FUNCTION newsloom.matching_articles(
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
COMMENT ON FUNCTION newsloom.matching_articles(
    regconfig[], tsquery[], timestamptz, timestamptz, text, text, text, text, integer
) IS 'The newest articles that match the query of their language, with a rank.';

CREATE FUNCTION newsloom.similar_titles(
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
COMMENT ON FUNCTION newsloom.similar_titles(
    text, timestamptz, timestamptz, text, text, text, text, integer
) IS 'Articles whose title has words like those of the query; none without pg_trgm.';

CREATE FUNCTION newsloom.marked(config regconfig, original text, query tsquery, options text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
-- Marks are characters that no text has (they are taken out of it first), so that everything can be
-- escaped after the words have been found and before the marks become tags.
SELECT replace(replace(
    replace(replace(replace(replace(replace(
        ts_headline(
            marked.config,
            translate(marked.original, E'\uE000\uE001', ''),
            marked.query,
            E'StartSel=\uE000, StopSel=\uE001, ' || marked.options
        ),
        '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;'),
    E'\uE000', '<mark>'), E'\uE001', '</mark>')
$$;
COMMENT ON FUNCTION newsloom.marked(regconfig, text, tsquery, text) IS
    'A text, or what is best of it, as safe HTML with the words of a query in <mark>.';

CREATE TYPE api.search_result AS (
    article_id uuid,
    title text,
    canonical_url text,
    provider_name text,
    provider_domain text,
    language text,
    published_at timestamptz,
    title_html text,
    snippet_html text,
    copy_of uuid,
    copies integer,
    story_id uuid,
    rank real,
    match text
);
COMMENT ON TYPE api.search_result IS 'A row of api.search.';
COMMENT ON COLUMN api.search_result.article_id IS 'The article.';
COMMENT ON COLUMN api.search_result.title IS 'Title, plain text.';
COMMENT ON COLUMN api.search_result.canonical_url IS 'Its address, clickable.';
COMMENT ON COLUMN api.search_result.provider_name IS 'Who published it.';
COMMENT ON COLUMN api.search_result.provider_domain IS 'Registered domain of the provider.';
COMMENT ON COLUMN api.search_result.language IS 'ISO 639-1; und: unknown.';
COMMENT ON COLUMN api.search_result.published_at IS 'When it was published; NULL: unknown.';
COMMENT ON COLUMN api.search_result.title_html IS 'The title as safe HTML, with <mark>.';
COMMENT ON COLUMN api.search_result.snippet_html IS
    'Where the words are in the text (its first 5,000 characters), as safe HTML with <mark>.';
COMMENT ON COLUMN api.search_result.copy_of IS 'The article that it repeats; NULL: an original.';
COMMENT ON COLUMN api.search_result.copies IS 'How many copies of this text there are.';
COMMENT ON COLUMN api.search_result.story_id IS 'The story it belongs to.';
COMMENT ON COLUMN api.search_result.rank IS
    'The higher the better, comparable within one answer: title before excerpt before body.';
COMMENT ON COLUMN api.search_result.match IS 'words, prefix or similar: how it was found.';

CREATE FUNCTION api.search(
    query text,
    since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL,
    language text DEFAULT NULL,
    provider text DEFAULT NULL,
    topic text DEFAULT NULL,
    include_copies boolean DEFAULT false,
    max_results integer DEFAULT 20
) RETURNS SETOF api.search_result
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
#variable_conflict use_column
DECLARE
    candidates CONSTANT integer := 1000;
    asked CONSTANT text := left(search.query, 1000);
    wanted_language CONSTANT text := lower(search.language);
    wanted_topic CONSTANT text := lower(search.topic);
    -- What has a dot is a domain, anything else a name.
    domain CONSTANT text := CASE WHEN position('.' IN search.provider) > 0 THEN lower(search.provider) END;
    name CONSTANT text := CASE WHEN position('.' IN search.provider) = 0 THEN lower(search.provider) END;
    configs regconfig[];
    queries tsquery[];
    how text;
BEGIN
    SELECT q.configs, q.queries INTO configs, queries
    FROM newsloom.search_queries(asked, wanted_language) AS q;
    -- Exact words win. Only when there are none: beginnings of words, then words that look alike.
    FOREACH how IN ARRAY ARRAY['words', 'prefix', 'similar'] LOOP
        IF how = 'prefix' THEN
            queries := array_fill(newsloom.prefix_query(asked), ARRAY[cardinality(configs)]);
            EXIT WHEN queries[1] IS NULL;
        END IF;
        RETURN QUERY
        WITH found AS (
            SELECT * FROM newsloom.matching_articles(
                configs, queries, search.since, search.until, wanted_language, domain, name,
                wanted_topic, candidates)
            WHERE how <> 'similar'
            UNION ALL
            SELECT * FROM newsloom.similar_titles(
                asked, search.since, search.until, wanted_language, domain, name, wanted_topic,
                candidates)
            WHERE how = 'similar'
        ), grouped AS (
            SELECT
                f.article_id,
                f.moment,
                f.rank,
                k.copy_of,
                row_number() OVER (
                    PARTITION BY coalesce(k.copy_of, f.article_id)
                    ORDER BY k.copy_of IS NOT NULL, f.rank DESC, f.moment DESC, f.article_id
                ) AS place
            FROM found AS f
            JOIN newsloom.articles AS a USING (article_id)
            LEFT JOIN newsloom.copies AS k USING (article_id)
            WHERE a.merged_into IS NULL AND a.erased_at IS NULL
        ), page AS (
            SELECT * FROM grouped AS g
            WHERE g.place = 1 OR search.include_copies
            ORDER BY g.rank DESC, g.moment DESC, g.article_id
            LIMIT LEAST(GREATEST(search.max_results, 0), 200)
        )
        SELECT
            p.article_id,
            c.title,
            c.canonical_url,
            c.provider_name,
            c.provider_domain,
            c.language,
            c.published_at,
            newsloom.marked(
                newsloom.search_config(c.language), left(c.title, 1000), q.query, 'HighlightAll=true'),
            newsloom.marked(
                newsloom.search_config(c.language),
                left(CASE
                    -- Many an excerpt is how the body begins.
                    WHEN starts_with(c.body, left(c.excerpt, 60)) THEN left(c.body, 5000)
                    ELSE concat_ws(E'\n', left(c.excerpt, 5000), left(c.body, 5000))
                END, 5000),
                q.query, 'MaxFragments=2, MaxWords=25, MinWords=8'),
            p.copy_of,
            (SELECT count(*)::integer FROM newsloom.copies AS o
             WHERE o.copy_of = coalesce(p.copy_of, p.article_id)),
            (SELECT s.story_id FROM newsloom.story_articles AS s WHERE s.article_id = p.article_id),
            p.rank,
            how
        FROM page AS p
        JOIN newsloom.article_contents AS c USING (article_id)
        CROSS JOIN LATERAL (
            SELECT coalesce(
                queries[array_position(configs, newsloom.search_config(c.language))],
                plainto_tsquery('simple', '')) AS query
        ) AS q
        ORDER BY p.rank DESC, p.moment DESC, p.article_id;
        EXIT WHEN FOUND;
    END LOOP;
END
$$;
COMMENT ON FUNCTION api.search(text, timestamptz, timestamptz, text, text, text, boolean, integer) IS
    'Articles by their words. query: as in a web search ("a phrase", or, -without). since, until: when published (else first observed). language: ISO 639-1. provider: a domain or a name. topic: one of theirs. include_copies: else each text comes once. max_results: up to 200. Of very common words the newest 1,000 matches are ranked. match says how it was found: words, prefix (beginnings of words) or similar (misspelt). *_html is escaped, with <mark>. SECURITY DEFINER: reads the search column, which is in no view.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.search(text, timestamptz, timestamptz, text, text, text, boolean, integer);
DROP TYPE api.search_result;
DROP FUNCTION newsloom.marked(regconfig, text, tsquery, text);
DROP FUNCTION newsloom.similar_titles(text, timestamptz, timestamptz, text, text, text, text, integer);
DROP FUNCTION newsloom.matching_articles(
    regconfig[], tsquery[], timestamptz, timestamptz, text, text, text, text, integer);
DROP FUNCTION newsloom.prefix_query(text);
DROP FUNCTION newsloom.search_queries(text, text);
