-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

GRANT USAGE ON SCHEMA newsloom
    TO newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
GRANT USAGE ON SCHEMA api
    TO newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;

-- ingest: adds and updates; deletes only rows of the current state that it writes anew. No TRUNCATE.
GRANT SELECT, INSERT, UPDATE ON
    newsloom.articles, newsloom.article_contents, newsloom.article_urls, newsloom.related_articles,
    newsloom.article_revisions, newsloom.article_signals, newsloom.ingest_offsets
    TO newsloom_ingest;
GRANT DELETE ON newsloom.article_contents, newsloom.article_urls, newsloom.related_articles
    TO newsloom_ingest;
GRANT SELECT, INSERT ON newsloom.dead_letters TO newsloom_ingest;
GRANT INSERT ON newsloom.changes TO newsloom_ingest;

-- link: reads articles and the change log, owns copies and stories.
GRANT SELECT ON
    newsloom.articles, newsloom.article_contents, newsloom.article_urls, newsloom.related_articles,
    newsloom.changes
    TO newsloom_link;
GRANT SELECT, INSERT, UPDATE, DELETE ON newsloom.copies, newsloom.stories, newsloom.story_articles
    TO newsloom_link;
GRANT INSERT ON newsloom.changes TO newsloom_link;

-- relay: reads, and marks dead letters as sent.
GRANT SELECT ON ALL TABLES IN SCHEMA newsloom TO newsloom_relay;
GRANT UPDATE (relayed_at) ON newsloom.dead_letters TO newsloom_relay;

-- admin: maintenance, replay, offsets, erasure.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA newsloom TO newsloom_admin;
GRANT USAGE ON SEQUENCE newsloom.changes_change_id_seq
    TO newsloom_ingest, newsloom_link, newsloom_admin;

-- Functions: nobody but those who need them. Writers of article_contents compute `search`.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA newsloom, api FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    newsloom.search_config(text), newsloom.search_vector(text, text, text, text)
    TO newsloom_ingest, newsloom_admin;
GRANT EXECUTE ON FUNCTION
    newsloom.ensure_partitions(timestamptz, integer, integer)
    TO newsloom_admin;

-- reader: the views and functions of `api`, those of later migrations included, and nothing else.
GRANT SELECT ON ALL TABLES IN SCHEMA api
    TO newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA api
    TO newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
ALTER DEFAULT PRIVILEGES IN SCHEMA api
    GRANT SELECT ON TABLES
    TO newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
ALTER DEFAULT PRIVILEGES IN SCHEMA api
    GRANT EXECUTE ON FUNCTIONS
    TO newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;

RESET ROLE;

-- Kept by whoever migrates; every role checks at its start that nothing is missing.
GRANT SELECT ON schema_migrations
    TO newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;

-- Limits of whoever logs in as one of the roles. A role that is only a member has to be given its own.
-- What may fail here is what an administrator made: the roles' own migration says how.
DO $$
DECLARE
    role_name text;
BEGIN
    ALTER ROLE newsloom_reader SET default_transaction_read_only = on;
    ALTER ROLE newsloom_reader SET statement_timeout = '30s';
    ALTER ROLE newsloom_reader SET idle_in_transaction_session_timeout = '60s';
    FOREACH role_name IN ARRAY ARRAY[
        'newsloom_ingest', 'newsloom_link', 'newsloom_relay', 'newsloom_admin', 'newsloom_reader'
    ] LOOP
        EXECUTE format('ALTER ROLE %I SET search_path = api, pg_catalog', role_name);
        IF current_setting('server_version_num')::integer >= 170000 AND role_name <> 'newsloom_admin' THEN
            -- One long transaction would hold the readers of the change log back.
            EXECUTE format('ALTER ROLE %I SET transaction_timeout = ''60s''', role_name);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the limits of the newsloom roles are left to an administrator (migrations/README.md, "Roles")';
END
$$;

-- migrate:down
SET LOCAL ROLE newsloom_owner;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA api
    REVOKE SELECT ON TABLES
    FROM newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
ALTER DEFAULT PRIVILEGES IN SCHEMA api
    REVOKE EXECUTE ON FUNCTIONS
    FROM newsloom_reader, newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
REVOKE ALL ON ALL TABLES IN SCHEMA newsloom, api
    FROM newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA newsloom
    FROM newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA newsloom, api
    FROM newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA newsloom, api TO PUBLIC;
REVOKE ALL ON SCHEMA newsloom, api
    FROM newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;
RESET ROLE;
REVOKE SELECT ON schema_migrations
    FROM newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;
