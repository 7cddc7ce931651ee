-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Indexes for questions of the cookbook. Not CONCURRENTLY, as before: no released version has rows.

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX article_contents_observed_idx
    ON newsloom.article_contents (observed_at) WHERE NOT is_mention;
COMMENT ON INDEX newsloom.article_contents_observed_idx IS
    'What came in, or was changed, since a time.';

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX stories_last_published_at_idx
    ON newsloom.stories (last_published_at) WHERE merged_into IS NULL;
COMMENT ON INDEX newsloom.stories_last_published_at_idx IS 'The stories of these days.';

CREATE FUNCTION api.article_of_url(url text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
-- As core/identity.py makes a key of an address in canonical form; the commonest tracking parameters
-- are taken off, further repairs are left to it. url_id is a hash of the key.
SELECT u.article_id
FROM (
    SELECT rtrim(lower(substring(b.bare FROM '^[^/?]*')) || substring(b.bare FROM '^[^/?]*([^?]*)'), '/')
        || coalesce(substring(b.bare FROM '(\?.*)$'), '') AS key
    FROM (
        SELECT rtrim(regexp_replace(
            regexp_replace(regexp_replace(
                left(btrim(article_of_url.url), 2048), '#.*$', ''),
                '^(https?:)?//(www\.)?', '', 'i'),
            '(?<=[?&])(utm_\w+|fbclid|gclid)=[^&]*(&|$)', '', 'g'), '?&') AS bare
    ) AS b
) AS k
JOIN newsloom.article_urls AS u ON u.url_id = encode(
    substring(sha256('newsloom:1\000'::bytea || convert_to(k.key, 'UTF8')) FROM 1 FOR 16), 'hex')::uuid
JOIN newsloom.articles AS a ON a.article_id = u.article_id
WHERE a.erased_at IS NULL
$$;
COMMENT ON FUNCTION api.article_of_url(text) IS
    'The article that is known by an address; scheme, www., trailing slash, fragment and the commonest tracking parameters do not matter. NULL: none is. SECURITY DEFINER: finds addresses by their hash, which is in no view.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.article_of_url(text);
DROP INDEX newsloom.stories_last_published_at_idx;
DROP INDEX newsloom.article_contents_observed_idx;
