-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Defaults wait until a fifth of a table has changed: in a table of ten million that is two million
-- rows. Reasons, table by table; what a setting is not named for keeps what it has.

-- Updated by nearly every delivery, on the page (HOT): pages tidy themselves up. Vacuum is for what
-- that leaves, and early, while it is little.
ALTER TABLE newsloom.articles SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

-- Rows come and are replaced whole. Index-only scans (counts, newest first) need pages that vacuum has
-- marked all-visible, so it follows inserts as well.
ALTER TABLE newsloom.article_contents SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
ALTER TABLE newsloom.article_urls SET (
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE newsloom.related_articles SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- The linker updates stories as they grow, and pairs as they are found.
ALTER TABLE newsloom.stories SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE newsloom.story_articles SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE newsloom.copies SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE newsloom.link_states SET (autovacuum_vacuum_scale_factor = 0.05);

-- Words of new articles wait in a list that every search reads in full and that the unlucky insert
-- which fills it has to sort in: 4 MB of it by default are a stutter for both.
ALTER INDEX newsloom.article_contents_search_idx SET (gin_pending_list_limit = 1024);

RESET ROLE;

-- migrate:down
SET LOCAL ROLE newsloom_owner;
ALTER INDEX newsloom.article_contents_search_idx RESET (gin_pending_list_limit);
ALTER TABLE newsloom.link_states RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE newsloom.copies RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE newsloom.story_articles RESET (
    autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE newsloom.stories RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE newsloom.related_articles RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_scale_factor);
ALTER TABLE newsloom.article_urls RESET (
    autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE newsloom.article_contents RESET (autovacuum_vacuum_insert_scale_factor);
ALTER TABLE newsloom.article_contents SET (
    autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE newsloom.articles RESET (autovacuum_vacuum_insert_scale_factor);
ALTER TABLE newsloom.articles SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
RESET ROLE;
