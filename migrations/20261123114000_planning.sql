-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- The articles of a story come out of the index alone: a few thousand stories at a time are then
-- cheaper looked up than all rows read. It takes the place of the index on story_id.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX story_articles_story_idx
    ON newsloom.story_articles (story_id, article_id) INCLUDE (score);
COMMENT ON INDEX newsloom.story_articles_story_idx IS 'The articles of a story.';
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX newsloom.story_articles_story_id_idx;

RESET ROLE;

-- A view of `api` is up to four tables, and the planner stops looking for the best order of joins
-- after eight: a query over three views then reads one of them from end to end. Eleven is the most
-- below geqo_threshold, from where on it would guess. (Measured: 4.8 s against 0.2 s.)
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET join_collapse_limit = 11', current_database());
    EXECUTE format('ALTER DATABASE %I SET from_collapse_limit = 11', current_database());
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'to be set by an administrator for this database: join_collapse_limit = 11, from_collapse_limit = 11';
END
$$;

-- migrate:down
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I RESET join_collapse_limit', current_database());
    EXECUTE format('ALTER DATABASE %I RESET from_collapse_limit', current_database());
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END
$$;
SET LOCAL ROLE newsloom_owner;
CREATE INDEX story_articles_story_id_idx ON newsloom.story_articles (story_id);
DROP INDEX newsloom.story_articles_story_idx;
RESET ROLE;
