-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

CREATE TABLE newsloom.change_log_state (
    is_only boolean NOT NULL DEFAULT true,
    epoch bigint NOT NULL DEFAULT 1,
    retired_xid xid8 NOT NULL DEFAULT '0',
    retired_change_id bigint NOT NULL DEFAULT 0,
    CONSTRAINT change_log_state_pkey PRIMARY KEY (is_only),
    CONSTRAINT change_log_state_one_row CHECK (is_only)
);
INSERT INTO newsloom.change_log_state DEFAULT VALUES;
COMMENT ON TABLE newsloom.change_log_state IS 'One row: which cursors of api.changed_since still hold.';
COMMENT ON COLUMN newsloom.change_log_state.is_only IS 'There is one row.';
COMMENT ON COLUMN newsloom.change_log_state.epoch IS 'Raised by newsloom.begin_epoch().';
COMMENT ON COLUMN newsloom.change_log_state.retired_xid IS
    'With retired_change_id: the last position that was ever retired. Cursors before it have missed changes.';
COMMENT ON COLUMN newsloom.change_log_state.retired_change_id IS 'See retired_xid.';
GRANT SELECT ON newsloom.change_log_state TO newsloom_link, newsloom_relay, newsloom_admin;

CREATE TYPE newsloom.change_position AS (xid xid8, change_id bigint);
COMMENT ON TYPE newsloom.change_position IS 'A place in the change log: everything up to this row was read.';

-- What a position is worth nothing without. Transaction numbers start anew in another server (a dump
-- that was restored) and are handed out again after recovery to an earlier time and after a failover
-- that lost transactions: both begin a new timeline.
CREATE FUNCTION newsloom.restore_epoch() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT substr(encode(sha256(convert_to(concat_ws(' ',
    (SELECT s.system_identifier FROM pg_control_system() AS s),
    (SELECT c.timeline_id FROM pg_control_checkpoint() AS c),
    (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()),
    (SELECT l.epoch FROM newsloom.change_log_state AS l)
), 'UTF8')), 'hex'), 1, 16)
$$;
COMMENT ON FUNCTION newsloom.restore_epoch() IS
    'Another value after a restore, a failover or newsloom.begin_epoch(): older cursors have expired.';

CREATE FUNCTION newsloom.cursor_of(epoch text, place newsloom.change_position) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT translate(
    encode(convert_to(format('1:%s:%s:%s', epoch, (place).xid, (place).change_id), 'UTF8'), 'base64'),
    E'+/=\n', '-_')
$$;
COMMENT ON FUNCTION newsloom.cursor_of(text, newsloom.change_position) IS
    'A position as readers are given it.';

CREATE FUNCTION newsloom.position_of(cursor text) RETURNS newsloom.change_position
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[];
    place newsloom.change_position;
    state newsloom.change_log_state;
BEGIN
    BEGIN
        parts := string_to_array(convert_from(decode(
            rpad(translate(left(cursor, 200), '-_', '+/'), (length(left(cursor, 200)) + 3) / 4 * 4, '='),
            'base64'), 'UTF8'), ':');
        place := (parts[3]::xid8, parts[4]::bigint);
    EXCEPTION
        WHEN data_exception THEN
            parts := NULL;
    END;
    IF parts IS NULL OR cardinality(parts) <> 4 OR parts[1] <> '1' OR place IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'this is no cursor of api.changed_since',
            HINT = 'Hand back the cursor of the last row as it was given, or none to begin.';
    END IF;
    SELECT * INTO STRICT state FROM newsloom.change_log_state;
    IF parts[2] <> newsloom.restore_epoch()
        OR (place.xid, place.change_id) < (state.retired_xid, state.retired_change_id)
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'NL001',
            MESSAGE = 'the cursor has expired: changes after it are gone, or the database was restored',
            HINT = 'Take api.changes_cursor(), read what you mirror anew, then go on from that cursor.';
    END IF;
    RETURN place;
END
$$;
COMMENT ON FUNCTION newsloom.position_of(text) IS
    'Reads a cursor; raises NL001 for one that has expired and 22023 for what is no cursor.';

CREATE TYPE api.change AS (
    cursor text,
    kind text,
    article_id uuid,
    story_id uuid,
    other_id uuid,
    version bigint,
    changed_fields text[],
    observed_at timestamptz,
    recorded_at timestamptz
);
COMMENT ON TYPE api.change IS 'A row of api.changed_since.';
COMMENT ON COLUMN api.change.cursor IS 'Where to go on after this row; opaque.';
COMMENT ON COLUMN api.change.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, copy_linked, copy_unlinked, story_created, story_grown, story_shrunk, story_merged, story_split; expect others.';
COMMENT ON COLUMN api.change.article_id IS 'The article that changed; NULL: it was a story.';
COMMENT ON COLUMN api.change.story_id IS 'The story that changed; NULL: it was an article.';
COMMENT ON COLUMN api.change.other_id IS
    'The other article of a merge or copy, the other story of a merge or split.';
COMMENT ON COLUMN api.change.version IS
    'Version of the article or story after it. Rows are not in commit order: ignore one below what you have.';
COMMENT ON COLUMN api.change.changed_fields IS 'Of a revision: what differs from the one before.';
COMMENT ON COLUMN api.change.observed_at IS 'When the delivery behind it was observed.';
COMMENT ON COLUMN api.change.recorded_at IS 'When its transaction began.';

-- Rows below the oldest running transaction are complete: nothing can still appear among them. The
-- snapshot asked is the one that the rows are read with, so this holds in any isolation level, and
-- on a standby.
CREATE FUNCTION api.changed_since(cursor text DEFAULT NULL, max_results integer DEFAULT 1000)
RETURNS SETOF api.change
LANGUAGE plpgsql STABLE SECURITY DEFINER
ROWS 1000
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    epoch CONSTANT text := newsloom.restore_epoch();
    horizon CONSTANT xid8 := pg_snapshot_xmin(pg_current_snapshot());
    place newsloom.change_position := ('0', 0);
BEGIN
    IF changed_since.cursor IS NOT NULL THEN
        place := newsloom.position_of(changed_since.cursor);
    END IF;
    IF (SELECT c.xid FROM newsloom.changes AS c ORDER BY c.xid DESC, c.change_id DESC LIMIT 1)
        > GREATEST(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned())
    THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'the change log is of another server: its transactions are yet to come here',
            HINT = 'After restoring a dump, run once as newsloom_admin: SELECT newsloom.begin_epoch();';
    END IF;
    RETURN QUERY
    SELECT
        newsloom.cursor_of(epoch, (c.xid, c.change_id)),
        c.kind,
        c.article_id,
        c.story_id,
        c.other_id,
        c.version,
        c.changed_fields,
        c.observed_at,
        c.recorded_at
    FROM newsloom.changes AS c
    WHERE (c.xid, c.change_id) > (place.xid, place.change_id)
        AND c.xid < horizon
    ORDER BY c.xid, c.change_id
    LIMIT LEAST(GREATEST(changed_since.max_results, 0), 10000);
END
$$;
COMMENT ON FUNCTION api.changed_since(text, integer) IS
    'What changed after a cursor, for pollers: hand back the cursor of the last row; without rows keep the one you have; without a cursor it begins with the oldest change kept. Gap-free under concurrent writers. max_results: up to 10,000. Raises NL001 when the cursor has expired (its changes were retired, or the database was restored). SECURITY DEFINER: read past the horizon, the change log would have gaps, so it is in no view.';

CREATE FUNCTION api.changes_cursor() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT newsloom.cursor_of(newsloom.restore_epoch(), (pg_snapshot_xmin(pg_current_snapshot()), 0))
$$;
COMMENT ON FUNCTION api.changes_cursor() IS
    'The cursor of now. To mirror: take it, then copy what you want, then follow api.changed_since from it; what changed meanwhile comes again. SECURITY DEFINER: asks what epoch it is.';

CREATE FUNCTION newsloom.retire_changes(older_than timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
SET timezone = 'UTC'
AS $$
DECLARE
    child regclass;
    place newsloom.change_position;
    retired integer := 0;
BEGIN
    -- Partitions are named after their day; the DEFAULT one never goes.
    FOR child IN
        SELECT c.oid FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'newsloom.changes'::regclass AND c.relname ~ '^changes_\d{8}$'
            AND to_date(right(c.relname, 8), 'YYYYMMDD') + interval '1 day' <= older_than
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT xid, change_id FROM %s ORDER BY xid DESC, change_id DESC LIMIT 1', child)
            INTO place.xid, place.change_id;
        -- Never past a reader: what it has not read is still needed, and so is what comes after.
        EXIT WHEN EXISTS (
            SELECT FROM newsloom.cursors AS k
            WHERE (k.xid, k.change_id) < (place.xid, place.change_id));
        UPDATE newsloom.change_log_state AS s
        SET retired_xid = place.xid, retired_change_id = place.change_id
        WHERE (s.retired_xid, s.retired_change_id) < (place.xid, place.change_id);
        EXECUTE format('DROP TABLE %s', child);
        retired := retired + 1;
    END LOOP;
    RETURN retired;
END
$$;
COMMENT ON FUNCTION newsloom.retire_changes(timestamptz) IS
    'Drops the days of the change log that end by a time and that every reader has read; returns how many. Cursors of api.changed_since from before have expired then.';

CREATE FUNCTION newsloom.begin_epoch() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    begun bigint;
BEGIN
    LOCK TABLE newsloom.cursors, newsloom.changes IN SHARE ROW EXCLUSIVE MODE;
    -- Every row becomes older than any transaction to come, in the order that it has; whoever has
    -- read part of them has read the same part then. Processes that follow the log are fenced.
    UPDATE newsloom.cursors AS k
    SET xid = '0', epoch = k.epoch + 1, updated_at = now(), change_id = (
        SELECT count(*) FROM newsloom.changes AS c
        WHERE (c.xid, c.change_id) <= (k.xid, k.change_id));
    UPDATE newsloom.changes AS c SET xid = '0', change_id = r.place
    FROM (
        SELECT o.change_id, o.xid, row_number() OVER (ORDER BY o.xid, o.change_id) AS place
        FROM newsloom.changes AS o
    ) AS r
    WHERE c.change_id = r.change_id AND c.xid = r.xid;
    UPDATE newsloom.change_log_state AS s
    SET epoch = s.epoch + 1, retired_xid = '0', retired_change_id = 0
    RETURNING s.epoch INTO begun;
    RETURN begun;
END
$$;
COMMENT ON FUNCTION newsloom.begin_epoch() IS
    'To be run once after a dump was restored: transaction numbers in it are those of another server. Followers of the change log go on where they were; cursors of api.changed_since have expired.';

GRANT EXECUTE ON FUNCTION newsloom.retire_changes(timestamptz), newsloom.begin_epoch()
    TO newsloom_admin;

RESET ROLE;

-- migrate:down
DROP FUNCTION newsloom.begin_epoch();
DROP FUNCTION newsloom.retire_changes(timestamptz);
DROP FUNCTION api.changes_cursor();
DROP FUNCTION api.changed_since(text, integer);
DROP TYPE api.change;
DROP FUNCTION newsloom.position_of(text);
DROP FUNCTION newsloom.cursor_of(text, newsloom.change_position);
DROP FUNCTION newsloom.restore_epoch();
DROP TYPE newsloom.change_position;
DROP TABLE newsloom.change_log_state;
