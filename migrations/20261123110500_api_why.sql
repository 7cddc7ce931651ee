-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- The linker stores the pairs that it verified. For all others the figures are worked out here, from
-- the signatures that it keeps: core/signatures.py and core/text_features.py say how they are stored
-- (version 1 each), core/copies.py and core/stories.py what the figures mean. A test holds the two
-- to each other.

CREATE FUNCTION newsloom.unsigned_numbers(stored bytea, first integer, numbers integer)
RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Joined to nothing, so that it is read out of the table's side storage once.
    bytes bytea := stored || ''::bytea;
    found bigint[];
BEGIN
    SELECT array_agg(
        get_byte(bytes, n) + (get_byte(bytes, n + 1) << 8) + (get_byte(bytes, n + 2) << 16)
            + get_byte(bytes, n + 3)::bigint * 16777216
        ORDER BY n)
    INTO found
    FROM generate_series(first, first + 4 * (numbers - 1), 4) AS n;
    RETURN coalesce(found, '{}');
END
$$;
COMMENT ON FUNCTION newsloom.unsigned_numbers(bytea, integer, integer) IS
    'Numbers of four bytes each, least significant first, from a place on.';

CREATE FUNCTION newsloom.signature_shingles(signature bytea) RETURNS bigint[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
-- Version (1 byte); shingles of the title, numbers, shingles (2 bytes each); then the numbers (8
-- bytes each), 64 band keys unless there are no shingles, the shingles.
SELECT CASE
    WHEN h.shingles = 0 THEN '{}'
    ELSE newsloom.unsigned_numbers(
        signature_shingles.signature, 7 + 8 * h.numbers + 4 * 64, h.shingles)
END
FROM (
    SELECT
        get_byte(s.head, 3) + (get_byte(s.head, 4) << 8) AS numbers,
        get_byte(s.head, 5) + (get_byte(s.head, 6) << 8) AS shingles
    FROM (SELECT substring(signature_shingles.signature FROM 1 FOR 7) AS head) AS s
    WHERE get_byte(s.head, 0) = 1
) AS h
$$;
COMMENT ON FUNCTION newsloom.signature_shingles(bytea) IS
    'The shingles of a stored signature, in order; NULL for a version that is not known here.';

CREATE FUNCTION newsloom.pair_figures(a uuid, b uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    left_state newsloom.link_states;
    right_state newsloom.link_states;
    place integer;
    figures jsonb := '{}';
BEGIN
    SELECT * INTO left_state FROM newsloom.link_states AS s WHERE s.article_id = pair_figures.a;
    SELECT * INTO right_state FROM newsloom.link_states AS s WHERE s.article_id = pair_figures.b;
    IF left_state IS NULL OR right_state IS NULL OR left_state.article_id IS NULL
        OR right_state.article_id IS NULL
    THEN
        RETURN NULL;
    END IF;
    SELECT jsonb_build_object(
        'shingles', jsonb_build_array(p.of_left, p.of_right),
        'shared_shingles', p.shared,
        'jaccard', round(p.shared::numeric / nullif(p.of_left + p.of_right - p.shared, 0), 4),
        'containment', round(p.shared::numeric / nullif(LEAST(p.of_left, p.of_right), 0), 4))
    INTO figures
    FROM (
        SELECT
            count(*) FILTER (WHERE m.in_left) AS of_left,
            count(*) FILTER (WHERE m.in_right) AS of_right,
            count(*) FILTER (WHERE m.in_left AND m.in_right) AS shared
        FROM (
            SELECT bool_or(t.is_left) AS in_left, bool_or(NOT t.is_left) AS in_right
            FROM (
                SELECT unnest(newsloom.signature_shingles(left_state.signature)) AS shingle, true AS is_left
                UNION ALL
                SELECT unnest(newsloom.signature_shingles(right_state.signature)), false
            ) AS t
            GROUP BY t.shingle
        ) AS m
    ) AS p;
    -- What the linker verified counts: it knows which shingles are boilerplate.
    place := array_position(left_state.pair_ids, right_state.article_id);
    IF place IS NOT NULL THEN
        figures := figures || jsonb_build_object(
            'jaccard', round(left_state.pair_jaccard[place]::numeric, 4),
            'containment', round(left_state.pair_containment[place]::numeric, 4),
            'verified', true);
    ELSE
        place := array_position(right_state.pair_ids, left_state.article_id);
        IF place IS NOT NULL THEN
            figures := figures || jsonb_build_object(
                'jaccard', round(right_state.pair_jaccard[place]::numeric, 4),
                'containment', round(right_state.pair_containment[place]::numeric, 4),
                'verified', true);
        END IF;
    END IF;
    RETURN figures;
END
$$;
COMMENT ON FUNCTION newsloom.pair_figures(uuid, uuid) IS
    'How much of their texts two articles share; NULL: the linker knows one of them not (yet).';

CREATE FUNCTION newsloom.feature_weights(features bytea)
RETURNS TABLE (term bigint, weight integer)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
-- Version (1 byte), the terms (4 bytes each), their weights (1 byte each).
SELECT t.term, get_byte(feature_weights.features, (4 * n.terms + t.place)::integer)
FROM (SELECT (length(feature_weights.features) - 1) / 5 AS terms) AS n
CROSS JOIN LATERAL unnest(newsloom.unsigned_numbers(feature_weights.features, 1, n.terms))
    WITH ORDINALITY AS t (term, place)
WHERE get_byte(feature_weights.features, 0) = 1
$$;
COMMENT ON FUNCTION newsloom.feature_weights(bytea) IS
    'The terms of stored features with their weights; none for a version that is not known here.';

CREATE FUNCTION newsloom.story_figures(a uuid, b uuid) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH terms AS (
    SELECT s.article_id, f.term, f.weight
    FROM newsloom.link_states AS s
    CROSS JOIN LATERAL newsloom.feature_weights(s.features || ''::bytea) AS f
    WHERE s.article_id IN (story_figures.a, story_figures.b)
), lengths AS (
    SELECT sqrt(sum(t.weight::float8 ^ 2)) AS length FROM terms AS t GROUP BY t.article_id
), shared AS (
    SELECT count(*) AS terms, coalesce(sum(x.weight * y.weight), 0)::float8 AS product
    FROM terms AS x JOIN terms AS y USING (term)
    WHERE x.article_id = story_figures.a AND y.article_id = story_figures.b
), times AS (
    SELECT abs(extract(epoch FROM x.published_at - y.published_at)) / 86400 AS days
    FROM newsloom.article_contents AS x, newsloom.article_contents AS y
    WHERE x.article_id = story_figures.a AND y.article_id = story_figures.b
)
SELECT jsonb_build_object(
    'text_similarity', round((s.product / nullif((
        SELECT exp(sum(ln(nullif(l.length, 0)))) FROM lengths AS l HAVING count(*) = 2), 0))::numeric, 4),
    'shared_terms', s.terms,
    'days_apart', round((SELECT t.days FROM times AS t)::numeric, 2),
    'related', EXISTS (
        SELECT FROM newsloom.related_articles AS r
        WHERE (r.article_id, r.related_article_id) IN (
            (story_figures.a, story_figures.b), (story_figures.b, story_figures.a))))
FROM shared AS s
$$;
COMMENT ON FUNCTION newsloom.story_figures(uuid, uuid) IS
    'What speaks for and against two articles telling one event. text_similarity counts every term alike; the linker weighs rare ones higher.';

CREATE FUNCTION newsloom.why_copy(a uuid, b uuid)
RETURNS TABLE (answer boolean, reason text, detail text, evidence jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- As in core/copies.py, CopyConfig.
    least_jaccard CONSTANT numeric := 0.3;
    least_containment CONSTANT numeric := 0.5;
    least_shingles CONSTANT integer := 12;
    figures jsonb := newsloom.pair_figures(why_copy.a, why_copy.b);
    of_a newsloom.copies;
    of_b newsloom.copies;
BEGIN
    SELECT * INTO of_a FROM newsloom.copies AS k WHERE k.article_id = why_copy.a;
    SELECT * INTO of_b FROM newsloom.copies AS k WHERE k.article_id = why_copy.b;
    evidence := coalesce(figures, '{}') || jsonb_build_object('thresholds', jsonb_build_object(
        'jaccard', least_jaccard, 'containment', least_containment));
    answer := true;
    IF of_a.copy_of = why_copy.b OR of_b.copy_of = why_copy.a THEN
        IF of_a.copy_of IS NULL OR of_a.copy_of <> why_copy.b THEN
            of_a := of_b;
        END IF;
        reason := CASE WHEN of_a.article_id = why_copy.a THEN 'a-copies-b' ELSE 'b-copies-a' END;
        -- A link is made by the closest text of the group, which need not be the root.
        detail := format('%s repeats %s: they share Jaccard %s, containment %s; linked by a text of the group with %s, %s',
            of_a.article_id, of_a.copy_of,
            coalesce(figures ->> 'jaccard', 'unknown'), coalesce(figures ->> 'containment', 'unknown'),
            round(of_a.jaccard::numeric, 4), round(of_a.containment::numeric, 4));
        evidence := evidence || jsonb_build_object('link', jsonb_build_object(
            'jaccard', round(of_a.jaccard::numeric, 4),
            'containment', round(of_a.containment::numeric, 4),
            'algorithm_version', of_a.algorithm_version));
    ELSIF of_a.copy_of = of_b.copy_of THEN
        reason := 'copies-of-one';
        detail := format('both repeat %s: containment %s and %s', of_a.copy_of,
            round(of_a.containment::numeric, 3), round(of_b.containment::numeric, 3));
        evidence := evidence || jsonb_build_object(
            'copy_of', of_a.copy_of,
            'a', jsonb_build_object('jaccard', round(of_a.jaccard::numeric, 4),
                'containment', round(of_a.containment::numeric, 4)),
            'b', jsonb_build_object('jaccard', round(of_b.jaccard::numeric, 4),
                'containment', round(of_b.containment::numeric, 4)));
    ELSIF figures IS NULL THEN
        answer := NULL;
        reason := 'not-looked-at';
        detail := 'the linker has not looked at both of them (yet)';
    ELSE
        answer := false;
        IF (figures #>> '{shingles,0}')::integer < least_shingles
            OR (figures #>> '{shingles,1}')::integer < least_shingles
        THEN
            reason := 'too-short';
            detail := format('a text of fewer than %s different runs of three words is too short to judge',
                least_shingles);
        ELSIF (figures ->> 'jaccard')::numeric < least_jaccard
            AND (figures ->> 'containment')::numeric < least_containment
        THEN
            reason := 'different';
            detail := format('they share too little: Jaccard %s (of %s), containment %s (of %s)',
                figures ->> 'jaccard', least_jaccard, figures ->> 'containment', least_containment);
        ELSE
            reason := 'discounted';
            detail := format('they share enough words (Jaccard %s, containment %s), but a title, a standing paragraph or a template with other numbers; or they were never in the window together. `newsloom trace` of both says which',
                figures ->> 'jaccard', figures ->> 'containment');
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION newsloom.why_copy(uuid, uuid) IS 'The second row of api.why.';

CREATE FUNCTION newsloom.why_story(a uuid, b uuid)
RETURNS TABLE (answer boolean, reason text, detail text, evidence jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_a newsloom.story_articles;
    of_b newsloom.story_articles;
    figures jsonb := newsloom.story_figures(why_story.a, why_story.b);
BEGIN
    SELECT * INTO of_a FROM newsloom.story_articles AS m WHERE m.article_id = why_story.a;
    SELECT * INTO of_b FROM newsloom.story_articles AS m WHERE m.article_id = why_story.b;
    evidence := figures || jsonb_build_object(
        'a', jsonb_build_object('story_id', of_a.story_id, 'score', round(of_a.score::numeric, 4)),
        'b', jsonb_build_object('story_id', of_b.story_id, 'score', round(of_b.score::numeric, 4)));
    IF of_a.story_id IS NULL OR of_b.story_id IS NULL THEN
        answer := CASE WHEN (
            SELECT count(*) FROM newsloom.link_states AS s
            WHERE s.article_id IN (why_story.a, why_story.b)) = 2 THEN false END;
        reason := CASE WHEN answer IS NULL THEN 'not-looked-at' ELSE 'no-story' END;
        detail := CASE WHEN answer IS NULL THEN 'the linker has not looked at both of them (yet)'
            ELSE 'at least one of them belongs to no story' END;
    ELSIF of_a.story_id = of_b.story_id THEN
        answer := true;
        reason := 'same-story';
        detail := format('both are in story %s (%s articles), with scores %s and %s',
            of_a.story_id,
            (SELECT s.article_count FROM newsloom.stories AS s WHERE s.story_id = of_a.story_id),
            round(of_a.score::numeric, 3), round(of_b.score::numeric, 3));
    ELSE
        answer := false;
        reason := 'other-story';
        detail := format('they are in stories %s and %s: text similarity %s, %s days apart, %s',
            of_a.story_id, of_b.story_id, coalesce(figures ->> 'text_similarity', 'unknown'),
            coalesce(figures ->> 'days_apart', 'unknown'),
            CASE WHEN (figures ->> 'related')::boolean
                THEN 'the source relates them' ELSE 'the source does not relate them' END);
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION newsloom.why_story(uuid, uuid) IS 'The third row of api.why.';

CREATE TYPE api.judgement AS (
    question text, answer boolean, reason text, detail text, evidence jsonb
);
COMMENT ON TYPE api.judgement IS 'A row of api.why.';
COMMENT ON COLUMN api.judgement.question IS 'same article, copy or same story.';
COMMENT ON COLUMN api.judgement.answer IS 'NULL: not known (yet).';
COMMENT ON COLUMN api.judgement.reason IS
    'same-article, other-article, unknown; a-copies-b, b-copies-a, copies-of-one, too-short, different, discounted, not-looked-at; same-story, other-story, no-story.';
COMMENT ON COLUMN api.judgement.detail IS 'The same as a sentence.';
COMMENT ON COLUMN api.judgement.evidence IS 'The figures.';

CREATE FUNCTION api.why(a uuid, b uuid) RETURNS SETOF api.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER
ROWS 3
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one newsloom.articles;
    two newsloom.articles;
BEGIN
    SELECT * INTO one FROM newsloom.articles AS x
    WHERE x.article_id = api.current_id(why.a) AND x.erased_at IS NULL;
    SELECT * INTO two FROM newsloom.articles AS x
    WHERE x.article_id = api.current_id(why.b) AND x.erased_at IS NULL;
    IF one.article_id IS NULL OR two.article_id IS NULL THEN
        RETURN NEXT ('same article', NULL, 'unknown',
            format('there is no article %s',
                CASE WHEN one.article_id IS NULL THEN why.a ELSE why.b END), NULL)::api.judgement;
        RETURN;
    END IF;
    IF one.article_id = two.article_id THEN
        RETURN NEXT ('same article', true, 'same-article',
            format('both ids mean article %s, known by %s addresses%s', one.article_id,
                (SELECT count(*) FROM newsloom.article_urls AS u WHERE u.article_id = one.article_id),
                CASE WHEN why.a <> why.b THEN '; what came under two ids turned out to be one' ELSE '' END),
            (SELECT jsonb_build_object(
                'article_id', one.article_id,
                'urls', jsonb_agg(u.canonical_url ORDER BY u.kind, u.canonical_url))
             FROM newsloom.article_urls AS u WHERE u.article_id = one.article_id))::api.judgement;
        RETURN;
    END IF;
    RETURN NEXT ('same article', false, 'other-article', 'they have no address in common',
        jsonb_build_object('a', one.article_key, 'b', two.article_key))::api.judgement;
    RETURN QUERY
        SELECT 'copy', w.answer, w.reason, w.detail, w.evidence
        FROM newsloom.why_copy(one.article_id, two.article_id) AS w;
    RETURN QUERY
        SELECT 'same story', w.answer, w.reason, w.detail, w.evidence
        FROM newsloom.why_story(one.article_id, two.article_id) AS w;
END
$$;
COMMENT ON FUNCTION api.why(uuid, uuid) IS
    'Why two articles are, or are not, the same, a copy, or one story: a row for each question, with the figures. Ids of merged articles may be asked for. `newsloom trace FILE FILE` asks the same of two records. SECURITY DEFINER: reads the linker''s signatures, which are in no view.';

RESET ROLE;

-- migrate:down
DROP FUNCTION api.why(uuid, uuid);
DROP TYPE api.judgement;
DROP FUNCTION newsloom.why_story(uuid, uuid);
DROP FUNCTION newsloom.why_copy(uuid, uuid);
DROP FUNCTION newsloom.story_figures(uuid, uuid);
DROP FUNCTION newsloom.feature_weights(bytea);
DROP FUNCTION newsloom.pair_figures(uuid, uuid);
DROP FUNCTION newsloom.signature_shingles(bytea);
DROP FUNCTION newsloom.unsigned_numbers(bytea, integer, integer);
