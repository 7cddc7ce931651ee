-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Whom an alert should speak of. What is usual differs from provider to provider, so each is held to
-- itself: to the gaps between its newest fifty articles. Read from the index alone, fifty entries a
-- provider, however many articles it has.
CREATE FUNCTION api.provider_silence_counted() RETURNS TABLE (
    provider_domain text, last_seen_at timestamptz, silent_for interval, usual_gap interval,
    is_silent boolean
)
LANGUAGE sql STABLE SECURITY DEFINER
ROWS 1000
SET search_path = pg_catalog, pg_temp
AS $$
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
), held AS (
    SELECT d.provider_domain, h.articles, h.last_seen_at, h.usual_gap
    FROM domains AS d
    CROSS JOIN LATERAL (
        SELECT count(*) AS articles, max(n.observed_at) AS last_seen_at,
            percentile_cont(0.95) WITHIN GROUP (ORDER BY n.gap) AS usual_gap
        FROM (
            SELECT c.observed_at,
                c.observed_at - lag(c.observed_at) OVER (ORDER BY c.observed_at) AS gap
            FROM (
                SELECT c.observed_at FROM newsloom.article_contents AS c
                WHERE NOT c.is_mention AND c.provider_domain = d.provider_domain
                ORDER BY c.observed_at DESC LIMIT 50
            ) AS c
        ) AS n
    ) AS h
    WHERE d.provider_domain IS NOT NULL
)
SELECT h.provider_domain, h.last_seen_at, now() - h.last_seen_at, h.usual_gap,
    h.articles >= 20
    AND now() - h.last_seen_at > greatest(interval '1 hour', 3 * h.usual_gap)
    AND now() - h.last_seen_at < interval '7 days'
FROM held AS h
$$;
COMMENT ON FUNCTION api.provider_silence_counted() IS
    'What api.provider_silence shows. SECURITY DEFINER: reads an index of a table that is in no view.';

CREATE VIEW api.provider_silence AS
SELECT s.provider_domain, s.last_seen_at, s.silent_for, s.usual_gap, s.is_silent
FROM api.provider_silence_counted() AS s;
COMMENT ON VIEW api.provider_silence IS
    'How long each provider has been silent, and whether that is unusual for it.';
COMMENT ON COLUMN api.provider_silence.provider_domain IS 'Registered domain.';
COMMENT ON COLUMN api.provider_silence.last_seen_at IS 'When new content of it was last observed.';
COMMENT ON COLUMN api.provider_silence.silent_for IS 'Time since then.';
COMMENT ON COLUMN api.provider_silence.usual_gap IS
    '95 of 100 gaps between its newest fifty articles are shorter; NULL for a single one.';
COMMENT ON COLUMN api.provider_silence.is_silent IS
    'Silent for an hour at least and three times its usual gap; false below twenty articles, and after seven days: then it has gone.';

RESET ROLE;

-- migrate:down
DROP VIEW api.provider_silence;
DROP FUNCTION api.provider_silence_counted();
