-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Not CONCURRENTLY: no released version has a row in this table. The next index will have to be.

-- The time by which articles are sorted and filtered is LEAST(published_at, observed_at): it exists
-- for every article (LEAST ignores NULLs) and a date in the future by mistake does not stay on top.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX article_contents_recency_idx
    ON newsloom.article_contents (LEAST(published_at, observed_at)) WHERE NOT is_mention;
COMMENT ON INDEX newsloom.article_contents_recency_idx IS
    'The newest articles, and the newest matches of a common word without looking at all of them.';

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX article_contents_provider_observed_idx
    ON newsloom.article_contents (provider_domain, observed_at) WHERE NOT is_mention;
COMMENT ON INDEX newsloom.article_contents_provider_observed_idx IS
    'When each provider was last heard of.';

RESET ROLE;

-- migrate:down
DROP INDEX newsloom.article_contents_provider_observed_idx;
DROP INDEX newsloom.article_contents_recency_idx;
