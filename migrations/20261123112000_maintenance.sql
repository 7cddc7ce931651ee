-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- What `newsloom maintain` may not do itself, because newsloom_admin owns no table. Each function does
-- one small thing under a short lock, so that a caller can set lock_timeout, give way and try again.
-- A partition cannot be detached CONCURRENTLY from a table that has a DEFAULT partition.

-- A server hands its transaction numbers out in order. Numbers that it has not reached yet came with a
-- dump of another one: rows written now would sort before them, behind the readers' backs.
CREATE FUNCTION newsloom.change_log_is_foreign() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
-- A row of our own transaction is of this server too.
SELECT coalesce(
    n.highest >= pg_snapshot_xmax(pg_current_snapshot())
    AND n.highest IS DISTINCT FROM pg_current_xact_id_if_assigned(), false)
FROM (
    SELECT GREATEST(
        (SELECT c.xid FROM newsloom.changes AS c ORDER BY c.xid DESC, c.change_id DESC LIMIT 1),
        (SELECT max(k.xid) FROM newsloom.cursors AS k)
    ) AS highest
) AS n
$$;
COMMENT ON FUNCTION newsloom.change_log_is_foreign() IS
    'Whether the change log was restored from a dump of another server and not renumbered since: roles do not start then. Remedy: newsloom maintain --after-restore.';

CREATE FUNCTION newsloom.resume_after_restore() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_own_rows boolean;
BEGIN
    LOCK TABLE newsloom.cursors, newsloom.changes IN SHARE ROW EXCLUSIVE MODE;
    IF NOT newsloom.change_log_is_foreign() THEN
        RETURN 'unchanged';
    END IF;
    -- Numbers of rows come from a sequence, which a dump brings along: if the last row has a
    -- transaction of this server, it was written here since, and readers may have passed it by.
    SELECT c.xid < pg_snapshot_xmax(pg_current_snapshot()) INTO has_own_rows
    FROM newsloom.changes AS c ORDER BY c.change_id DESC LIMIT 1;
    PERFORM newsloom.begin_epoch();
    IF has_own_rows THEN
        UPDATE newsloom.cursors AS k SET change_id = 0 WHERE k.change_id > 0;
        RETURN 'read again';
    END IF;
    RETURN 'renumbered';
END
$$;
COMMENT ON FUNCTION newsloom.resume_after_restore() IS
    'To be run once after a dump was restored; again it does nothing. renumbered: readers of the change log go on where they were. read again: it had been written to meanwhile, so they begin with the oldest row kept, which they can do safely. unchanged: there was nothing to do.';

CREATE FUNCTION newsloom.old_partitions(parent regclass, older_than timestamptz)
RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
-- Named after their day or month; the DEFAULT one never goes.
SELECT p.relname::text
FROM (
    SELECT
        c.relname,
        substring(c.relname FROM '_(\d+)$') AS digits
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = old_partitions.parent
) AS p
WHERE CASE length(p.digits)
    WHEN 8 THEN to_timestamp(p.digits, 'YYYYMMDD') + interval '1 day'
    WHEN 6 THEN to_timestamp(p.digits, 'YYYYMM') + interval '1 month'
END <= old_partitions.older_than
ORDER BY p.relname
$$;
COMMENT ON FUNCTION newsloom.old_partitions(regclass, timestamptz) IS
    'The partitions whose whole range is before a time, oldest first.';

CREATE FUNCTION newsloom.retirable_partitions(parent regclass, older_than timestamptz)
RETURNS TABLE (name text, held_by text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place newsloom.change_position;
    holder text;
BEGIN
    FOR name IN SELECT newsloom.old_partitions(parent, older_than) LOOP
        -- Once a day of the change log is held, so is all that follows.
        IF parent = 'newsloom.changes'::regclass AND holder IS NULL THEN
            EXECUTE format(
                'SELECT xid, change_id FROM newsloom.%I ORDER BY xid DESC, change_id DESC LIMIT 1', name)
                INTO place.xid, place.change_id;
            SELECT k.reader INTO holder FROM newsloom.cursors AS k
            WHERE (k.xid, k.change_id) < (place.xid, place.change_id)
            ORDER BY k.xid, k.change_id LIMIT 1;
        END IF;
        held_by := holder;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION newsloom.retirable_partitions(regclass, timestamptz) IS
    'The partitions that are older than a time, oldest first, and which reader of the change log still needs each (NULL: nobody, it may go).';

CREATE FUNCTION newsloom.retire_partition(parent regclass, older_than timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    child text;
    holder text;
    place newsloom.change_position;
BEGIN
    IF parent NOT IN ('newsloom.changes'::regclass, 'newsloom.article_revisions'::regclass,
        'newsloom.article_signals'::regclass)
    THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s has no retention', parent);
    END IF;
    -- Looked at under the lock: nobody can still be writing into what goes.
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
    SELECT r.name, r.held_by INTO child, holder
    FROM newsloom.retirable_partitions(parent, older_than) AS r LIMIT 1;
    IF child IS NULL OR holder IS NOT NULL THEN
        RETURN NULL;
    END IF;
    IF parent = 'newsloom.changes'::regclass THEN
        EXECUTE format(
            'SELECT xid, change_id FROM newsloom.%I ORDER BY xid DESC, change_id DESC LIMIT 1', child)
            INTO place.xid, place.change_id;
        UPDATE newsloom.change_log_state AS s
        SET retired_xid = place.xid, retired_change_id = place.change_id
        WHERE (s.retired_xid, s.retired_change_id) < (place.xid, place.change_id);
    END IF;
    EXECUTE format('ALTER TABLE %s DETACH PARTITION newsloom.%I', parent, child);
    EXECUTE format('DROP TABLE newsloom.%I', child);
    RETURN child;
END
$$;
COMMENT ON FUNCTION newsloom.retire_partition(regclass, timestamptz) IS
    'Drops the oldest partition whose whole range is before a time and that every reader has read; returns its name, NULL when there is none.';

CREATE OR REPLACE FUNCTION newsloom.retire_changes(older_than timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
SET timezone = 'UTC'
AS $$
DECLARE
    retired integer := 0;
BEGIN
    WHILE newsloom.retire_partition('newsloom.changes', older_than) IS NOT NULL LOOP
        retired := retired + 1;
    END LOOP;
    RETURN retired;
END
$$;

CREATE FUNCTION newsloom.stray_ranges() RETURNS TABLE (parent regclass, low timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
SELECT DISTINCT 'newsloom.changes'::regclass, date_trunc('day', c.recorded_at)
FROM newsloom.changes_default AS c
UNION ALL
SELECT DISTINCT 'newsloom.article_revisions'::regclass, date_trunc('month', r.recorded_at)
FROM newsloom.article_revisions_default AS r
UNION ALL
SELECT DISTINCT 'newsloom.article_signals'::regclass, date_trunc('month', s.recorded_at)
FROM newsloom.article_signals_default AS s
$$;
COMMENT ON FUNCTION newsloom.stray_ranges() IS
    'The days and months of rows that wait in a DEFAULT partition because their own was not made in time.';

CREATE FUNCTION newsloom.adopt_strays() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    made integer := 0;
    stray record;
BEGIN
    FOR stray IN SELECT s.parent, s.low FROM newsloom.stray_ranges() AS s ORDER BY s.parent::text, s.low LOOP
        IF stray.parent = 'newsloom.changes'::regclass THEN
            made := made + newsloom.ensure_partition(
                stray.parent, stray.low, stray.low + interval '1 day', to_char(stray.low, 'YYYYMMDD'))::integer;
        ELSE
            made := made + newsloom.ensure_partition(
                stray.parent, stray.low, stray.low + interval '1 month', to_char(stray.low, 'YYYYMM'))::integer;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION newsloom.adopt_strays() IS
    'Makes the partitions of rows that wait in a DEFAULT partition, and moves them there; returns how many. Retention goes by partition, so they would stay for ever.';

GRANT EXECUTE ON FUNCTION
    newsloom.resume_after_restore(),
    newsloom.retirable_partitions(regclass, timestamptz),
    newsloom.retire_partition(regclass, timestamptz),
    newsloom.stray_ranges(),
    newsloom.adopt_strays()
    TO newsloom_admin;
GRANT EXECUTE ON FUNCTION newsloom.change_log_is_foreign()
    TO newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin;

COMMENT ON SEQUENCE newsloom.audit_log_audit_id_seq IS 'Numbers the rows of newsloom.audit_log.';

RESET ROLE;

-- migrate:down
SET LOCAL ROLE newsloom_owner;
CREATE OR REPLACE FUNCTION newsloom.retire_changes(older_than timestamptz) RETURNS integer
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
DROP FUNCTION newsloom.adopt_strays();
DROP FUNCTION newsloom.stray_ranges();
DROP FUNCTION newsloom.retire_partition(regclass, timestamptz);
DROP FUNCTION newsloom.retirable_partitions(regclass, timestamptz);
DROP FUNCTION newsloom.old_partitions(regclass, timestamptz);
DROP FUNCTION newsloom.resume_after_restore();
DROP FUNCTION newsloom.change_log_is_foreign();
RESET ROLE;
