-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- Where a reader of the change log stands. Its results and its position change in one transaction,
-- guarded by compare-and-set on (epoch, xid, change_id): an advisory lock alone does not stop a
-- process that was frozen while it held it.
CREATE TABLE newsloom.cursors (
    reader text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    owner_id text,
    xid xid8 NOT NULL DEFAULT '0',
    change_id bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0,
    window_from timestamptz,
    trim_sequence bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cursors_pkey PRIMARY KEY (reader)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE newsloom.cursors IS 'How far each reader of the change log has got, with its results.';
COMMENT ON COLUMN newsloom.cursors.reader IS 'link, or the name of a relay.';
COMMENT ON COLUMN newsloom.cursors.epoch IS 'Raised by each process that takes over: older ones are refused.';
COMMENT ON COLUMN newsloom.cursors.owner_id IS 'Who took over last.';
COMMENT ON COLUMN newsloom.cursors.xid IS 'Transaction of the last change read.';
COMMENT ON COLUMN newsloom.cursors.change_id IS 'The last change read.';
COMMENT ON COLUMN newsloom.cursors.sequence IS 'Articles observed so far by the linker: orders link_states.';
COMMENT ON COLUMN newsloom.cursors.window_from IS 'Start of the linker''s window, in first_seen_at.';
COMMENT ON COLUMN newsloom.cursors.trim_sequence IS
    'Value of sequence when the window last moved: later ones are in it, however old they are.';
COMMENT ON COLUMN newsloom.cursors.updated_at IS 'When it last moved.';

-- What the linker knows of an article: enough to rebuild its index without reading any text. Written
-- once an article, read at start; the arrays hold its verified pairs.
CREATE TABLE newsloom.link_states (
    article_id uuid NOT NULL,
    sequence bigint NOT NULL,
    version bigint NOT NULL,
    first_seen_at timestamptz NOT NULL,
    published_at timestamptz,
    is_counted boolean NOT NULL,
    related uuid[],
    pair_ids uuid[],
    pair_jaccard double precision[],
    pair_containment double precision[],
    signature bytea NOT NULL,
    features bytea NOT NULL,
    CONSTRAINT link_states_pkey PRIMARY KEY (article_id)
) WITH (fillfactor = 90);
-- The window is read in this order; articles leave it from the other end.
CREATE INDEX link_states_sequence_idx ON newsloom.link_states (sequence);
ALTER TABLE newsloom.link_states ALTER COLUMN signature SET STORAGE EXTERNAL;
ALTER TABLE newsloom.link_states ALTER COLUMN features SET STORAGE EXTERNAL;
COMMENT ON TABLE newsloom.link_states IS 'Signatures and pairs of linked articles: the linker''s memory.';
COMMENT ON COLUMN newsloom.link_states.article_id IS 'The article.';
COMMENT ON COLUMN newsloom.link_states.sequence IS 'When it was last observed by the linker, as a number.';
COMMENT ON COLUMN newsloom.link_states.version IS 'Version of the article that was looked at.';
COMMENT ON COLUMN newsloom.link_states.first_seen_at IS 'As the linker saw it: its place in the window.';
COMMENT ON COLUMN newsloom.link_states.published_at IS 'As the linker saw it.';
COMMENT ON COLUMN newsloom.link_states.is_counted IS 'Whether its shingles count towards common ones.';
COMMENT ON COLUMN newsloom.link_states.related IS 'Articles that the source names as related.';
COMMENT ON COLUMN newsloom.link_states.pair_ids IS 'The other article of each verified pair.';
COMMENT ON COLUMN newsloom.link_states.pair_jaccard IS 'Shared share of all shingles, for each pair.';
COMMENT ON COLUMN newsloom.link_states.pair_containment IS 'Shared share of the shorter one''s, for each pair.';
COMMENT ON COLUMN newsloom.link_states.signature IS 'Shingles, MinHash bands and numbers; first byte: version.';
COMMENT ON COLUMN newsloom.link_states.features IS 'Weighted terms for stories; first byte: version.';

GRANT SELECT, INSERT, UPDATE ON newsloom.cursors TO newsloom_link, newsloom_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON newsloom.cursors TO newsloom_admin;
GRANT SELECT, INSERT, UPDATE, DELETE ON newsloom.link_states TO newsloom_link, newsloom_admin;
-- A copy found or lost is a public change of the article, so its version rises.
GRANT UPDATE (version) ON newsloom.articles TO newsloom_link;

RESET ROLE;

-- migrate:down
REVOKE UPDATE (version) ON newsloom.articles FROM newsloom_link;
DROP TABLE newsloom.link_states;
DROP TABLE newsloom.cursors;
