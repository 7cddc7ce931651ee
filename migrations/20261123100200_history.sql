-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- History grows for ever and is retired by age, so it is partitioned by our own insert time: dropping
-- a partition costs nothing, deleting its rows would. Months for what is kept for years (revisions,
-- signals); days for the change log, which is read once and retired soon. Rows that no partition was
-- made ahead for go to a DEFAULT partition: nothing fails when maintenance did not run.

CREATE TABLE newsloom.article_revisions (
    article_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    observed_at timestamptz NOT NULL,
    published_at timestamptz,
    updated_at timestamptz,
    revision integer NOT NULL,
    word_count integer,
    reading_seconds integer,
    language_score real,
    is_published boolean,
    is_removed boolean NOT NULL,
    canonical_url text NOT NULL,
    title text NOT NULL,
    excerpt text,
    body text,
    type text,
    category text,
    language text,
    declared_language text,
    locale text,
    provider_name text,
    provider_domain text,
    provider_images jsonb,
    provider_extra jsonb,
    lead_image_url text,
    images jsonb,
    topics text[],
    tags text[],
    categories text[],
    levels text[],
    featured_content text,
    price text,
    length text,
    actions jsonb,
    items jsonb,
    extra jsonb,
    changed_fields text[],
    field_hashes json
) PARTITION BY RANGE (recorded_at);
CREATE INDEX article_revisions_article_idx ON newsloom.article_revisions (article_id, revision);
CREATE TABLE newsloom.article_revisions_default PARTITION OF newsloom.article_revisions DEFAULT;

COMMENT ON TABLE newsloom.article_revisions IS
    'Superseded contents; the current one is in article_contents. api.article_revisions unites them.';
COMMENT ON COLUMN newsloom.article_revisions.article_id IS 'The article; merging moves its revisions.';
COMMENT ON COLUMN newsloom.article_revisions.recorded_at IS 'When the row was written; selects the partition.';
COMMENT ON COLUMN newsloom.article_revisions.observed_at IS 'When this content was first observed.';
COMMENT ON COLUMN newsloom.article_revisions.published_at IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.updated_at IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.revision IS 'Number of this content within the article, from 1.';
COMMENT ON COLUMN newsloom.article_revisions.word_count IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.reading_seconds IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.language_score IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.is_published IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.is_removed IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.canonical_url IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.title IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.excerpt IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.body IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.type IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.category IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.language IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.declared_language IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.locale IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.provider_name IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.provider_domain IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.provider_images IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.provider_extra IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.lead_image_url IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.images IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.topics IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.tags IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.categories IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.levels IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.featured_content IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.price IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.length IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.actions IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.items IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.extra IS 'As in article_contents.';
COMMENT ON COLUMN newsloom.article_revisions.changed_fields IS 'What differed from the revision before it.';
COMMENT ON COLUMN newsloom.article_revisions.field_hashes IS 'As in article_contents.';

CREATE TABLE newsloom.article_signals (
    article_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    observed_at timestamptz NOT NULL,
    quality integer,
    heat integer,
    ratings jsonb
) PARTITION BY RANGE (recorded_at);
CREATE INDEX article_signals_article_idx ON newsloom.article_signals (article_id, observed_at);
CREATE TABLE newsloom.article_signals_default PARTITION OF newsloom.article_signals DEFAULT;

COMMENT ON TABLE newsloom.article_signals IS
    'Signals that were replaced; the present ones are in articles. api.article_signals unites them.';
COMMENT ON COLUMN newsloom.article_signals.article_id IS 'The article; merging moves its signals.';
COMMENT ON COLUMN newsloom.article_signals.recorded_at IS 'When the row was written; selects the partition.';
COMMENT ON COLUMN newsloom.article_signals.observed_at IS 'When these signals were first observed.';
COMMENT ON COLUMN newsloom.article_signals.quality IS 'As published; NULL: unknown.';
COMMENT ON COLUMN newsloom.article_signals.heat IS 'As published; NULL: unknown.';
COMMENT ON COLUMN newsloom.article_signals.ratings IS 'How readers rated it: {"count", "average"}.';

CREATE SEQUENCE newsloom.changes_change_id_seq;
COMMENT ON SEQUENCE newsloom.changes_change_id_seq IS 'Numbers the rows of newsloom.changes.';

-- Read by (xid, change_id) below pg_snapshot_xmin(pg_current_snapshot()): without gaps, but not in the
-- order of commits, so readers keep the highest version of an article or story.
CREATE TABLE newsloom.changes (
    change_id bigint NOT NULL DEFAULT nextval('newsloom.changes_change_id_seq'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    observed_at timestamptz NOT NULL,
    version bigint NOT NULL,
    article_id uuid,
    story_id uuid,
    other_id uuid,
    kind text NOT NULL,
    changed_fields text[],
    CONSTRAINT changes_one_entity CHECK (num_nonnulls(article_id, story_id) = 1)
) PARTITION BY RANGE (recorded_at);
ALTER SEQUENCE newsloom.changes_change_id_seq OWNED BY newsloom.changes.change_id;
CREATE INDEX changes_tail_idx ON newsloom.changes (xid, change_id);
CREATE TABLE newsloom.changes_default PARTITION OF newsloom.changes DEFAULT;

COMMENT ON TABLE newsloom.changes IS
    'The change log: what the linker and the relay follow. One row a public change.';
COMMENT ON COLUMN newsloom.changes.change_id IS 'Orders the changes of one transaction.';
COMMENT ON COLUMN newsloom.changes.xid IS 'The transaction that wrote the row: readers wait for its horizon.';
COMMENT ON COLUMN newsloom.changes.recorded_at IS 'When the row was written; selects the partition.';
COMMENT ON COLUMN newsloom.changes.observed_at IS 'When the delivery behind it was observed.';
COMMENT ON COLUMN newsloom.changes.version IS 'Version of the article or story after the change.';
COMMENT ON COLUMN newsloom.changes.article_id IS 'The article that changed; NULL when it was a story.';
COMMENT ON COLUMN newsloom.changes.story_id IS 'The story that changed; NULL when it was an article.';
COMMENT ON COLUMN newsloom.changes.other_id IS 'The other article of a merge or of a copy, the other story of a merge or split.';
COMMENT ON COLUMN newsloom.changes.kind IS
    'created, mentioned, revised, removed, aliased, merged, erased, and the words of the linker.';
COMMENT ON COLUMN newsloom.changes.changed_fields IS 'Of a revision: what differs from the one before.';

CREATE FUNCTION newsloom.ensure_partition(parent regclass, low timestamptz, high timestamptz, suffix text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bare text := (SELECT relname FROM pg_class WHERE oid = parent);
    child text := format('newsloom.%I', bare || '_' || suffix);
    spare text := format('newsloom.%I', bare || '_default');
BEGIN
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Attached rather than created in place: that leaves the parent open to writers. What the DEFAULT
    -- partition took for this range moves over first, or attaching would be refused.
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', child, parent);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', spare);
    EXECUTE format(
        'WITH moved AS (DELETE FROM %s WHERE recorded_at >= %L AND recorded_at < %L RETURNING *) '
        'INSERT INTO %s SELECT * FROM moved', spare, low, high, child);
    EXECUTE format(
        'ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, child, low, high);
    RETURN true;
END
$$;
COMMENT ON FUNCTION newsloom.ensure_partition(regclass, timestamptz, timestamptz, text) IS
    'Makes one partition unless it is there; takes over what the DEFAULT partition holds of its range.';

CREATE FUNCTION newsloom.ensure_partitions(
    at timestamptz DEFAULT now(), days_ahead integer DEFAULT 7, months_ahead integer DEFAULT 2
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    made integer := 0;
    low timestamptz;
    parent regclass;
BEGIN
    FOR number IN 0..days_ahead LOOP
        low := date_trunc('day', at) + number * interval '1 day';
        made := made + newsloom.ensure_partition(
            'newsloom.changes', low, low + interval '1 day', to_char(low, 'YYYYMMDD'))::integer;
    END LOOP;
    FOREACH parent IN ARRAY ARRAY['newsloom.article_revisions', 'newsloom.article_signals']::regclass[] LOOP
        FOR number IN 0..months_ahead LOOP
            low := date_trunc('month', at) + number * interval '1 month';
            made := made + newsloom.ensure_partition(
                parent, low, low + interval '1 month', to_char(low, 'YYYYMM'))::integer;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION newsloom.ensure_partitions(timestamptz, integer, integer) IS
    'Makes the partitions of the change log (days) and of revisions and signals (months) ahead of time; returns how many. `newsloom maintain` calls it.';

SELECT newsloom.ensure_partitions();

RESET ROLE;

-- migrate:down
DROP FUNCTION newsloom.ensure_partitions(timestamptz, integer, integer);
DROP FUNCTION newsloom.ensure_partition(regclass, timestamptz, timestamptz, text);
DROP TABLE newsloom.changes;
DROP TABLE newsloom.article_signals;
DROP TABLE newsloom.article_revisions;
