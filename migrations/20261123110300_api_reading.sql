-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

CREATE FUNCTION api.current_story_id(story_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT coalesce(s.merged_into, s.story_id)
    FROM newsloom.stories AS s
    WHERE s.story_id = current_story_id.story_id
);
COMMENT ON FUNCTION api.current_story_id(uuid) IS
    'The id under which a story is found today: another one after a merge; NULL: never heard of. SECURITY DEFINER: merged stories are in no view.';

-- Functions written as text rather than parsed ahead: a view they use can then be replaced.

CREATE TYPE api.timeline_entry AS (
    story_id uuid,
    article_id uuid,
    published_at timestamptz,
    after_first interval,
    title text,
    provider_name text,
    provider_domain text,
    canonical_url text,
    language text,
    copy_of uuid,
    score real,
    revision integer,
    first_seen_at timestamptz
);
COMMENT ON TYPE api.timeline_entry IS 'A row of api.story.';
COMMENT ON COLUMN api.timeline_entry.story_id IS 'The story, by its present id.';
COMMENT ON COLUMN api.timeline_entry.article_id IS 'The article.';
COMMENT ON COLUMN api.timeline_entry.published_at IS 'When it was published; NULL: unknown.';
COMMENT ON COLUMN api.timeline_entry.after_first IS 'How long after the first article of the story.';
COMMENT ON COLUMN api.timeline_entry.title IS 'Title, plain text.';
COMMENT ON COLUMN api.timeline_entry.provider_name IS 'Who published it.';
COMMENT ON COLUMN api.timeline_entry.provider_domain IS 'Registered domain of the provider.';
COMMENT ON COLUMN api.timeline_entry.canonical_url IS 'Its address, clickable.';
COMMENT ON COLUMN api.timeline_entry.language IS 'ISO 639-1; und: unknown.';
COMMENT ON COLUMN api.timeline_entry.copy_of IS 'The article that it repeats; NULL: an original.';
COMMENT ON COLUMN api.timeline_entry.score IS 'How well it fits the story, 0 to 1.';
COMMENT ON COLUMN api.timeline_entry.revision IS 'Number of its present content.';
COMMENT ON COLUMN api.timeline_entry.first_seen_at IS 'When it was first observed.';

CREATE FUNCTION api.story(story_id uuid) RETURNS SETOF api.timeline_entry
LANGUAGE sql STABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT
    m.story_id,
    a.article_id,
    a.published_at,
    coalesce(a.published_at, a.first_seen_at)
        - min(coalesce(a.published_at, a.first_seen_at)) OVER (),
    a.title,
    a.provider_name,
    a.provider_domain,
    a.canonical_url,
    a.language,
    a.copy_of,
    m.score,
    a.revision,
    a.first_seen_at
FROM api.story_articles AS m
JOIN api.articles AS a USING (article_id)
WHERE m.story_id = api.current_story_id(story.story_id)
ORDER BY coalesce(a.published_at, a.first_seen_at), a.first_seen_at, a.article_id
$$;
COMMENT ON FUNCTION api.story(uuid) IS
    'The articles of a story as a timeline, the earliest first (by the time of publication, else of the first observation); after_first is the distance to it. The id of a merged story gives the story that it went into. SECURITY INVOKER: reads views of api.';

CREATE FUNCTION api.article_at(article_id uuid, at timestamptz DEFAULT now())
RETURNS SETOF api.article_revisions
LANGUAGE sql STABLE SECURITY INVOKER
ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
SELECT r.*
FROM api.article_revisions AS r
WHERE r.article_id = api.current_id(article_at.article_id)
    AND r.observed_at <= article_at.at
ORDER BY r.observed_at DESC, r.revision DESC
LIMIT 1
$$;
COMMENT ON FUNCTION api.article_at(uuid, timestamptz) IS
    'The article as it read at a time: the revision that had been observed last; no row before the first. The id of a merged article gives the article that it went into. SECURITY INVOKER: reads views of api.';

CREATE FUNCTION newsloom.change_marks(taken text[], added text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN taken = '{}' THEN '{}' ELSE ARRAY['[-' || array_to_string(taken, ' ') || '-]'] END
    || CASE WHEN added = '{}' THEN '{}' ELSE ARRAY['{+' || array_to_string(added, ' ') || '+}'] END
$$;
COMMENT ON FUNCTION newsloom.change_marks(text[], text[]) IS 'Words taken out and put in, in marks.';

CREATE FUNCTION newsloom.longest_common(old_words text[], new_words text[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    olds integer := cardinality(old_words);
    news integer := cardinality(new_words);
    lengths integer[] := array_fill(0, ARRAY[olds + 1, news + 1]);
BEGIN
    FOR o IN REVERSE olds..1 LOOP
        FOR n IN REVERSE news..1 LOOP
            lengths[o][n] := CASE WHEN old_words[o] = new_words[n] THEN lengths[o + 1][n + 1] + 1
                ELSE GREATEST(lengths[o + 1][n], lengths[o][n + 1]) END;
        END LOOP;
    END LOOP;
    RETURN lengths;
END
$$;
COMMENT ON FUNCTION newsloom.longest_common(text[], text[]) IS
    'At [o][n]: how many words in order both have, from their words o and n on.';

-- What the two begin and end with is cut off first; a headline's rest is then compared word by word
-- (the longest common subsequence). That takes old times new steps, so a long rest is shown whole.
CREATE FUNCTION newsloom.changed_words(old_text text, new_text text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    context CONSTANT integer := 8;
    most_steps CONSTANT integer := 2500;
    old_words text[] := array_remove(regexp_split_to_array(coalesce(old_text, ''), '\s+'), '');
    new_words text[] := array_remove(regexp_split_to_array(coalesce(new_text, ''), '\s+'), '');
    olds integer := cardinality(old_words);
    news integer := cardinality(new_words);
    head integer := 0;
    tail integer := 0;
    longest integer[];
    o integer := 1;
    n integer := 1;
    taken text[] := '{}';
    added text[] := '{}';
    shown text[] := '{}';
BEGIN
    WHILE head < LEAST(olds, news) AND old_words[head + 1] = new_words[head + 1] LOOP
        head := head + 1;
    END LOOP;
    WHILE tail < LEAST(olds, news) - head AND old_words[olds - tail] = new_words[news - tail] LOOP
        tail := tail + 1;
    END LOOP;
    old_words := old_words[head + 1 : olds - tail];
    olds := cardinality(old_words);
    IF olds * (news - head - tail)::bigint <= most_steps THEN
        longest := newsloom.longest_common(old_words, new_words[head + 1 : news - tail]);
    END IF;
    WHILE o <= olds OR n <= news - head - tail LOOP
        IF longest IS NOT NULL AND o <= olds AND n <= news - head - tail
            AND old_words[o] = new_words[head + n]
        THEN
            shown := shown || newsloom.change_marks(taken, added) || new_words[head + n];
            taken := '{}';
            added := '{}';
            o := o + 1;
            n := n + 1;
        ELSIF longest IS NULL THEN
            taken := old_words;
            added := new_words[head + 1 : news - tail];
            EXIT;
        ELSIF n > news - head - tail
            OR (o <= olds AND coalesce(longest[o + 1][n], 0) >= coalesce(longest[o][n + 1], 0))
        THEN
            taken := taken || old_words[o];
            o := o + 1;
        ELSE
            added := added || new_words[head + n];
            n := n + 1;
        END IF;
    END LOOP;
    shown := CASE WHEN head > context THEN ARRAY['...'] ELSE '{}' END
        || new_words[GREATEST(head - context, 0) + 1 : head]
        || shown || newsloom.change_marks(taken, added)
        || new_words[news - tail + 1 : LEAST(news, news - tail + context)]
        || CASE WHEN tail > context THEN ARRAY['...'] ELSE '{}' END;
    RETURN array_to_string(shown, ' ');
END
$$;
COMMENT ON FUNCTION newsloom.changed_words(text, text) IS
    'What was taken out and put in between the words that two texts begin and end with, in the manner of wdiff.';

CREATE FUNCTION newsloom.revision_fields(article_id uuid, revision integer) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_strip_nulls(f.fields) - ARRAY[
    'article_id', 'revision', 'recorded_at', 'observed_at', 'changed_fields', 'field_hashes',
    'search', 'is_mention', 'language_score']
FROM (
    SELECT to_jsonb(c) AS fields
    FROM newsloom.article_contents AS c
    JOIN newsloom.articles AS a USING (article_id)
    WHERE c.article_id = revision_fields.article_id AND a.revision = revision_fields.revision
        AND a.revision > 0 AND a.erased_at IS NULL
    UNION ALL
    SELECT to_jsonb(r)
    FROM newsloom.article_revisions AS r
    JOIN newsloom.articles AS a USING (article_id)
    WHERE r.article_id = revision_fields.article_id AND r.revision = revision_fields.revision
        AND a.erased_at IS NULL
) AS f
LIMIT 1
$$;
COMMENT ON FUNCTION newsloom.revision_fields(uuid, integer) IS
    'What a reader could see of one revision, by field; NULL: there is no such revision (any more).';

CREATE TYPE api.field_difference AS (field text, old_value text, new_value text, change text);
COMMENT ON TYPE api.field_difference IS 'A row of api.diff.';
COMMENT ON COLUMN api.field_difference.field IS 'Which field, as in api.articles.';
COMMENT ON COLUMN api.field_difference.old_value IS 'What it was; lists and objects as JSON; NULL: none.';
COMMENT ON COLUMN api.field_difference.new_value IS 'What it became; NULL: none.';
COMMENT ON COLUMN api.field_difference.change IS
    'Of a text: [-taken out-] {+put in+} between words that stayed.';

CREATE FUNCTION api.diff(
    article_id uuid, from_revision integer DEFAULT NULL, to_revision integer DEFAULT NULL
) RETURNS SETOF api.field_difference
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    id CONSTANT uuid := api.current_id(diff.article_id);
    newest CONSTANT integer := (
        SELECT a.revision FROM newsloom.articles AS a
        WHERE a.article_id = id AND a.erased_at IS NULL);
    until CONSTANT integer := coalesce(diff.to_revision, newest);
    since CONSTANT integer := coalesce(diff.from_revision, until - 1);
    old_fields jsonb;
    new_fields jsonb;
BEGIN
    IF newest IS NULL OR newest = 0 OR (diff.from_revision IS NULL AND since = 0) THEN
        RETURN;
    END IF;
    old_fields := newsloom.revision_fields(id, since);
    new_fields := newsloom.revision_fields(id, until);
    IF old_fields IS NULL OR new_fields IS NULL THEN
        RAISE no_data_found USING
            MESSAGE = format('revision %s of article %s is not kept',
                CASE WHEN old_fields IS NULL THEN since ELSE until END, id),
            HINT = 'See api.article_revisions for those that are.';
    END IF;
    RETURN QUERY
    SELECT
        k.field,
        old_fields ->> k.field,
        new_fields ->> k.field,
        CASE WHEN coalesce(jsonb_typeof(old_fields -> k.field), 'string') = 'string'
                AND coalesce(jsonb_typeof(new_fields -> k.field), 'string') = 'string'
            THEN newsloom.changed_words(old_fields ->> k.field, new_fields ->> k.field)
        END
    FROM (
        SELECT jsonb_object_keys(old_fields || new_fields) AS field
    ) AS k
    WHERE old_fields -> k.field IS DISTINCT FROM new_fields -> k.field
    ORDER BY
        array_position(ARRAY['title', 'excerpt', 'body'], k.field) NULLS LAST,
        k.field;
END
$$;
COMMENT ON FUNCTION api.diff(uuid, integer, integer) IS
    'What differs between two revisions, a row a field; by default the newest and the one before. change shows texts as [-taken out-] {+put in+} between what stayed. No rows: nothing differs, or there is but one revision; a revision that is not kept (any more) raises no_data_found. SECURITY DEFINER: compares fields that are in no view of revisions.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.diff(uuid, integer, integer);
DROP TYPE api.field_difference;
DROP FUNCTION newsloom.revision_fields(uuid, integer);
DROP FUNCTION newsloom.changed_words(text, text);
DROP FUNCTION newsloom.longest_common(text[], text[]);
DROP FUNCTION newsloom.change_marks(text[], text[]);
DROP FUNCTION api.article_at(uuid, timestamptz);
DROP FUNCTION api.story(uuid);
DROP TYPE api.timeline_entry;
DROP FUNCTION api.current_story_id(uuid);
