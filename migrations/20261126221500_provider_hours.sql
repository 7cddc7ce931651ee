-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- A function and no view: the hours that are asked for have to reach the index on the time of contents,
-- and a condition on a group's hour would not.
CREATE FUNCTION api.provider_hours(
    since timestamptz DEFAULT now() - interval '1 day', until timestamptz DEFAULT now()
) RETURNS TABLE (
    hour timestamptz, provider_domain text, provider_name text, articles bigint, copies bigint,
    without_date bigint, without_excerpt bigint, without_body bigint, without_image bigint
)
LANGUAGE sql STABLE
ROWS 1000
SET search_path = pg_catalog, pg_temp
AS $$
SELECT
    date_trunc('hour', a.revised_at, 'UTC'),
    a.provider_domain,
    max(a.provider_name),
    count(*),
    count(a.copy_of),
    count(*) FILTER (WHERE a.published_at IS NULL),
    count(*) FILTER (WHERE coalesce(a.excerpt, '') = ''),
    count(*) FILTER (WHERE coalesce(a.body, '') = ''),
    count(*) FILTER (WHERE a.lead_image_url IS NULL)
FROM api.articles AS a
WHERE NOT a.is_mention AND a.revised_at >= since AND a.revised_at < until
GROUP BY 1, 2
$$;
COMMENT ON FUNCTION api.provider_hours(timestamptz, timestamptz) IS
    'What each provider brought in each hour (UTC) from since until, mentions aside: articles whose present content was first observed then, how many of them are copies, and how many lack a value. provider_domain is NULL for articles without one.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.provider_hours(timestamptz, timestamptz);
