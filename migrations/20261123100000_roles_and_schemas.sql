-- migrate:up
SET LOCAL lock_timeout = '5s';

-- Roles belong to the whole server, so they may be there already: another database of it, or an
-- administrator who does not let applications create roles. Without CREATEROLE and without the roles
-- this stops with a hint: a schema whose rights are half granted would be worse.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'newsloom_owner', 'newsloom_ingest', 'newsloom_link', 'newsloom_relay', 'newsloom_admin',
        'newsloom_reader'
    ] LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- made by another database just now
            WHEN insufficient_privilege THEN
                RAISE insufficient_privilege USING
                    MESSAGE = format('role %s is missing and %s may not create it', role_name, current_user),
                    HINT = 'Let an administrator run migrations/README.md, "Roles", once for this server.';
        END;
    END LOOP;
    -- What follows runs as the owner. Creating a role does not by itself allow to act as it.
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        BEGIN
            EXECUTE format('GRANT newsloom_owner TO %I', current_user);
        EXCEPTION
            WHEN insufficient_privilege THEN NULL;  -- an administrator has granted it, or SET ROLE fails
        END;
    END IF;
END
$$;

CREATE SCHEMA newsloom AUTHORIZATION newsloom_owner;
COMMENT ON SCHEMA newsloom IS
    'The tables of newsloom. Private: they change with any migration; read the schema api instead.';

CREATE SCHEMA api AUTHORIZATION newsloom_owner;
COMMENT ON SCHEMA api IS
    'What newsloom offers to readers: views and read-only functions that stay compatible.';

-- migrate:down
-- The roles stay: other databases of the server may use them.
DROP SCHEMA api;
DROP SCHEMA newsloom;
