-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Counting a provider's articles reads as many index entries as it has articles. So the counts are
-- kept, and refreshed now and then (`newsloom maintain`); no delivery touches them: the row of a busy
-- provider would be what all of ingest waits for. Where nobody refreshes them, they are counted when
-- asked: slower, never wrong.
CREATE TABLE newsloom.provider_totals (
    provider_domain text NOT NULL,
    name text,
    article_count bigint NOT NULL,
    last_seen_at timestamptz NOT NULL,
    counted_at timestamptz NOT NULL,
    CONSTRAINT provider_totals_pkey PRIMARY KEY (provider_domain)
);
COMMENT ON TABLE newsloom.provider_totals IS 'What api.providers shows, as of counted_at.';
COMMENT ON COLUMN newsloom.provider_totals.provider_domain IS 'Registered domain.';
COMMENT ON COLUMN newsloom.provider_totals.name IS 'Name in its newest article.';
COMMENT ON COLUMN newsloom.provider_totals.article_count IS 'Its articles, mentions aside.';
COMMENT ON COLUMN newsloom.provider_totals.last_seen_at IS 'When new content of it was last observed.';
COMMENT ON COLUMN newsloom.provider_totals.counted_at IS 'When it was counted; the same in all rows.';

CREATE FUNCTION newsloom.count_providers() RETURNS TABLE (
    provider_domain text, name text, article_count bigint, last_seen_at timestamptz
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
-- From one provider to the next by the index, and each one's figures from the index too.
WITH RECURSIVE domains AS (
    (SELECT c.provider_domain FROM newsloom.article_contents AS c
     WHERE NOT c.is_mention AND c.provider_domain IS NOT NULL
     ORDER BY c.provider_domain LIMIT 1)
    UNION ALL
    SELECT (
        SELECT c.provider_domain FROM newsloom.article_contents AS c
        WHERE NOT c.is_mention AND c.provider_domain > d.provider_domain
        ORDER BY c.provider_domain LIMIT 1)
    FROM domains AS d WHERE d.provider_domain IS NOT NULL
)
SELECT d.provider_domain, newest.provider_name, total.articles, newest.observed_at
FROM domains AS d
CROSS JOIN LATERAL (
    SELECT count(*) AS articles FROM newsloom.article_contents AS c
    WHERE NOT c.is_mention AND c.provider_domain = d.provider_domain
) AS total
CROSS JOIN LATERAL (
    SELECT c.provider_name, c.observed_at FROM newsloom.article_contents AS c
    WHERE NOT c.is_mention AND c.provider_domain = d.provider_domain
    ORDER BY c.observed_at DESC LIMIT 1
) AS newest
WHERE d.provider_domain IS NOT NULL
$$;
COMMENT ON FUNCTION newsloom.count_providers() IS
    'Every provider with its figures, read from indexes alone; erased articles have no content to count.';

CREATE FUNCTION newsloom.refresh_providers() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    counted bigint;
BEGIN
    -- One at a time; readers see the rows of before until this commits.
    LOCK TABLE newsloom.provider_totals IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO newsloom.provider_totals AS t
        (provider_domain, name, article_count, last_seen_at, counted_at)
    SELECT c.provider_domain, c.name, c.article_count, c.last_seen_at, now()
    FROM newsloom.count_providers() AS c
    ON CONFLICT (provider_domain) DO UPDATE SET name = excluded.name,
        article_count = excluded.article_count, last_seen_at = excluded.last_seen_at,
        counted_at = excluded.counted_at;
    GET DIAGNOSTICS counted = ROW_COUNT;
    DELETE FROM newsloom.provider_totals AS t WHERE t.counted_at < now();
    RETURN counted;
END
$$;
COMMENT ON FUNCTION newsloom.refresh_providers() IS
    'Counts anew what api.providers shows; returns the number of providers. `newsloom maintain` calls it, every hour or so.';
GRANT SELECT ON newsloom.provider_totals TO newsloom_admin;
GRANT EXECUTE ON FUNCTION newsloom.refresh_providers() TO newsloom_admin;

-- A function of `api` may call what its caller may not; a view may not, for functions.
CREATE FUNCTION api.counted_providers() RETURNS TABLE (
    provider_domain text, name text, article_count bigint, last_seen_at timestamptz,
    counted_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER
ROWS 1000
SET search_path = pg_catalog, pg_temp
AS $$
SELECT c.provider_domain, c.name, c.article_count, c.last_seen_at, now()
FROM newsloom.count_providers() AS c
$$;
COMMENT ON FUNCTION api.counted_providers() IS
    'What api.providers shows, counted now. SECURITY DEFINER: counts by indexes of tables that are in no view.';

CREATE OR REPLACE VIEW api.providers AS
SELECT t.provider_domain, t.name, t.article_count, t.last_seen_at, t.counted_at
FROM newsloom.provider_totals AS t
WHERE t.counted_at > now() - interval '1 day'
UNION ALL
SELECT c.provider_domain, c.name, c.article_count, c.last_seen_at, c.counted_at
FROM api.counted_providers() AS c
WHERE NOT EXISTS (
    SELECT FROM newsloom.provider_totals AS t WHERE t.counted_at > now() - interval '1 day');
COMMENT ON VIEW api.providers IS
    'Who publishes, as of counted_at: refreshed by `newsloom maintain`, counted when asked where that is more than a day ago.';
COMMENT ON COLUMN api.providers.last_seen_at IS 'When new content of it was last observed.';
COMMENT ON COLUMN api.providers.counted_at IS 'When these figures were taken.';

RESET ROLE;

-- migrate:down
DROP VIEW api.providers;
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
ALTER VIEW api.providers OWNER TO newsloom_owner;
GRANT SELECT ON api.providers
    TO newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
COMMENT ON VIEW api.providers IS
    'Who publishes. Counted when asked: a row that every delivery had to update would hold ingest back.';
COMMENT ON COLUMN api.providers.provider_domain IS 'Registered domain.';
COMMENT ON COLUMN api.providers.name IS 'Name in its newest article.';
COMMENT ON COLUMN api.providers.article_count IS 'Its articles, mentions aside.';
COMMENT ON COLUMN api.providers.last_seen_at IS 'When anything of it was last observed.';
DROP FUNCTION api.counted_providers();
DROP FUNCTION newsloom.refresh_providers();
DROP FUNCTION newsloom.count_providers();
DROP TABLE newsloom.provider_totals;
