-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

CREATE TYPE newsloom.url_kind AS ENUM ('original', 'web', 'amp', 'cdn_amp');
COMMENT ON TYPE newsloom.url_kind IS
    'Which URL field of a record an address came from, in the order of trust: the least is kept.';

-- The narrow row: most deliveries touch nothing else. An update of it stays on its page and touches no
-- index (HOT), so: room on every page, and no index on anything that changes. No foreign keys point
-- here: they would lock this row again for each child row. Fixed-width columns first, without padding;
-- `secured`, which changes most, last, so that the log of an update holds little else.
CREATE TABLE newsloom.articles (
    article_id uuid NOT NULL,
    first_seen_at timestamptz NOT NULL,
    observed_at timestamptz NOT NULL,
    signals_at timestamptz NOT NULL,
    erased_at timestamptz,
    version bigint NOT NULL,
    revision integer NOT NULL,
    quality integer,
    heat integer,
    merged_into uuid,
    article_key text NOT NULL,
    content_hash bytea NOT NULL,
    ratings jsonb,
    secured text,
    CONSTRAINT articles_pkey PRIMARY KEY (article_id)
) WITH (
    fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05
);
CREATE INDEX articles_merged_into_idx ON newsloom.articles (merged_into)
    WHERE merged_into IS NOT NULL;

COMMENT ON TABLE newsloom.articles IS
    'One row an article, mentions included: identity, order and signals. Writers lock this row first.';
COMMENT ON COLUMN newsloom.articles.article_id IS
    'The first 16 bytes of SHA-256("newsloom:1" NUL article_key).';
COMMENT ON COLUMN newsloom.articles.first_seen_at IS 'The lowest time at which any delivery observed it.';
COMMENT ON COLUMN newsloom.articles.observed_at IS
    'Order key, first part: when the newest delivery applied was observed.';
COMMENT ON COLUMN newsloom.articles.signals_at IS 'When the present quality, heat and ratings were first observed.';
COMMENT ON COLUMN newsloom.articles.erased_at IS 'When it was taken down; later deliveries are refused.';
COMMENT ON COLUMN newsloom.articles.version IS
    'Rises with every public change, under the lock of this row: orders the change log of one article.';
COMMENT ON COLUMN newsloom.articles.revision IS
    'Number of the current content; 0: only a mention is known so far.';
COMMENT ON COLUMN newsloom.articles.quality IS 'As published; NULL: unknown.';
COMMENT ON COLUMN newsloom.articles.heat IS 'As published; NULL: unknown.';
COMMENT ON COLUMN newsloom.articles.merged_into IS
    'The article that this one turned out to be; it never points to a merged one itself.';
COMMENT ON COLUMN newsloom.articles.article_key IS
    'The key URL at creation: canonical, without scheme, www. and trailing slash.';
COMMENT ON COLUMN newsloom.articles.content_hash IS
    'Order key, second part: 32 bytes over the current content before enrichment.';
COMMENT ON COLUMN newsloom.articles.ratings IS 'How readers rated it: {"count", "average"}.';
COMMENT ON COLUMN newsloom.articles.secured IS
    'Opaque, kept byte for byte, and in no view.';

CREATE FUNCTION newsloom.search_config(language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE language
    WHEN 'en' THEN 'pg_catalog.english'::regconfig
    WHEN 'ar' THEN 'pg_catalog.arabic'::regconfig
    WHEN 'ca' THEN 'pg_catalog.catalan'::regconfig
    WHEN 'da' THEN 'pg_catalog.danish'::regconfig
    WHEN 'de' THEN 'pg_catalog.german'::regconfig
    WHEN 'el' THEN 'pg_catalog.greek'::regconfig
    WHEN 'es' THEN 'pg_catalog.spanish'::regconfig
    WHEN 'eu' THEN 'pg_catalog.basque'::regconfig
    WHEN 'fi' THEN 'pg_catalog.finnish'::regconfig
    WHEN 'fr' THEN 'pg_catalog.french'::regconfig
    WHEN 'ga' THEN 'pg_catalog.irish'::regconfig
    WHEN 'hi' THEN 'pg_catalog.hindi'::regconfig
    WHEN 'hu' THEN 'pg_catalog.hungarian'::regconfig
    WHEN 'hy' THEN 'pg_catalog.armenian'::regconfig
    WHEN 'id' THEN 'pg_catalog.indonesian'::regconfig
    WHEN 'it' THEN 'pg_catalog.italian'::regconfig
    WHEN 'lt' THEN 'pg_catalog.lithuanian'::regconfig
    WHEN 'ne' THEN 'pg_catalog.nepali'::regconfig
    WHEN 'nl' THEN 'pg_catalog.dutch'::regconfig
    WHEN 'no' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'nb' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'nn' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'pt' THEN 'pg_catalog.portuguese'::regconfig
    WHEN 'ro' THEN 'pg_catalog.romanian'::regconfig
    WHEN 'ru' THEN 'pg_catalog.russian'::regconfig
    WHEN 'sr' THEN 'pg_catalog.serbian'::regconfig
    WHEN 'sv' THEN 'pg_catalog.swedish'::regconfig
    WHEN 'ta' THEN 'pg_catalog.tamil'::regconfig
    WHEN 'tr' THEN 'pg_catalog.turkish'::regconfig
    WHEN 'yi' THEN 'pg_catalog.yiddish'::regconfig
    ELSE 'pg_catalog.simple'::regconfig
END;
COMMENT ON FUNCTION newsloom.search_config(text) IS
    'The text search configuration of a language (ISO 639-1); unknown ones are not stemmed.';

-- A tsvector may not pass 1 MB: a body is searchable by its first 100,000 characters.
CREATE FUNCTION newsloom.search_vector(language text, title text, excerpt text, body text)
RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN setweight(to_tsvector(newsloom.search_config(language), left(title, 2000)), 'A')
    || setweight(to_tsvector(newsloom.search_config(language), left(coalesce(excerpt, ''), 20000)), 'B')
    || to_tsvector(newsloom.search_config(language), left(coalesce(body, ''), 100000));
COMMENT ON FUNCTION newsloom.search_vector(text, text, text, text) IS
    'What api.search matches: title (weight A), excerpt (B) and the start of the body (D).';

-- The wide row: written when the content changes and at no other time. Empty lists and objects are
-- stored as NULL (the views say '{}'), which a mention has many of.
CREATE TABLE newsloom.article_contents (
    article_id uuid NOT NULL,
    observed_at timestamptz NOT NULL,
    published_at timestamptz,
    updated_at timestamptz,
    word_count integer,
    reading_seconds integer,
    language_score real,
    is_mention boolean NOT NULL,
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
    field_hashes json,
    search tsvector GENERATED ALWAYS AS (
        CASE WHEN NOT is_mention THEN newsloom.search_vector(language, title, excerpt, body) END
    ) STORED,
    CONSTRAINT article_contents_pkey PRIMARY KEY (article_id)
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);

-- Mentions outnumber articles ten to one; they are found by title through their article, not here.
CREATE INDEX article_contents_search_idx ON newsloom.article_contents USING gin (search)
    WHERE NOT is_mention;
CREATE INDEX article_contents_published_at_idx ON newsloom.article_contents (published_at)
    WHERE NOT is_mention;
CREATE INDEX article_contents_provider_idx
    ON newsloom.article_contents (provider_domain, published_at) WHERE NOT is_mention;

COMMENT ON TABLE newsloom.article_contents IS
    'The current content of each article, mentions included: what a reader sees. Superseded contents are in article_revisions.';
COMMENT ON COLUMN newsloom.article_contents.article_id IS 'The article; a merged one has no row.';
COMMENT ON COLUMN newsloom.article_contents.observed_at IS 'When this content was first observed.';
COMMENT ON COLUMN newsloom.article_contents.published_at IS 'The record''s publishedDateTime.';
COMMENT ON COLUMN newsloom.article_contents.updated_at IS 'The record''s updatedDateTime: content, it orders nothing.';
COMMENT ON COLUMN newsloom.article_contents.word_count IS 'Words of the body or, without one, of the excerpt.';
COMMENT ON COLUMN newsloom.article_contents.reading_seconds IS 'Estimated time to read it.';
COMMENT ON COLUMN newsloom.article_contents.language_score IS 'How sure the detection of the language is, 0 to 1.';
COMMENT ON COLUMN newsloom.article_contents.is_mention IS 'Known only from another record''s related list.';
COMMENT ON COLUMN newsloom.article_contents.is_published IS 'The record''s published.';
COMMENT ON COLUMN newsloom.article_contents.is_removed IS 'The record''s removed.';
COMMENT ON COLUMN newsloom.article_contents.canonical_url IS 'The clickable canonical form of the content''s key URL.';
COMMENT ON COLUMN newsloom.article_contents.title IS 'Title, plain text.';
COMMENT ON COLUMN newsloom.article_contents.excerpt IS 'Excerpt, plain text.';
COMMENT ON COLUMN newsloom.article_contents.body IS 'The text after the front matter.';
COMMENT ON COLUMN newsloom.article_contents.type IS 'article, video, download, course, ...';
COMMENT ON COLUMN newsloom.article_contents.category IS 'The record''s category.';
COMMENT ON COLUMN newsloom.article_contents.language IS 'ISO 639-1: declared or detected.';
COMMENT ON COLUMN newsloom.article_contents.declared_language IS 'The record''s language, as written.';
COMMENT ON COLUMN newsloom.article_contents.locale IS 'The record''s locale.';
COMMENT ON COLUMN newsloom.article_contents.provider_name IS 'Who published it.';
COMMENT ON COLUMN newsloom.article_contents.provider_domain IS 'Registered domain of the provider.';
COMMENT ON COLUMN newsloom.article_contents.provider_images IS 'Pictures of the provider: [{"url", "width", ...}].';
COMMENT ON COLUMN newsloom.article_contents.provider_extra IS 'Unknown fields of the provider.';
COMMENT ON COLUMN newsloom.article_contents.lead_image_url IS 'The picture to show beside the title.';
COMMENT ON COLUMN newsloom.article_contents.images IS
    'Pictures in order: [{"url", "width", "height", "is_cached", "title", "attribution"}]; api.article_images has a row for each.';
COMMENT ON COLUMN newsloom.article_contents.topics IS 'News subjects.';
COMMENT ON COLUMN newsloom.article_contents.tags IS 'The record''s tags.';
COMMENT ON COLUMN newsloom.article_contents.categories IS 'The record''s categories.';
COMMENT ON COLUMN newsloom.article_contents.levels IS 'The record''s levels (of a course).';
COMMENT ON COLUMN newsloom.article_contents.featured_content IS 'HTML as published: untrusted.';
COMMENT ON COLUMN newsloom.article_contents.price IS 'The record''s price, as written.';
COMMENT ON COLUMN newsloom.article_contents.length IS 'The record''s length, as written.';
COMMENT ON COLUMN newsloom.article_contents.actions IS 'The record''s actions.';
COMMENT ON COLUMN newsloom.article_contents.items IS 'The record''s items.';
COMMENT ON COLUMN newsloom.article_contents.extra IS 'Fields that newsloom does not know.';
COMMENT ON COLUMN newsloom.article_contents.changed_fields IS 'What differs from the revision before.';
COMMENT ON COLUMN newsloom.article_contents.field_hashes IS
    '8 bytes (hex) a field that is set, before enrichment: tells the next revision what changed.';
COMMENT ON COLUMN newsloom.article_contents.search IS 'newsloom.search_vector of it; NULL for a mention.';

-- Every address of every article. The id is a hash of the key, so that no URL is ever too long for
-- the index and rows stay narrow.
CREATE TABLE newsloom.article_urls (
    url_id uuid NOT NULL,
    article_id uuid NOT NULL,
    kind newsloom.url_kind NOT NULL,
    url text NOT NULL,
    canonical_url text NOT NULL,
    CONSTRAINT article_urls_pkey PRIMARY KEY (url_id)
) WITH (fillfactor = 95);
CREATE INDEX article_urls_article_id_idx ON newsloom.article_urls (article_id);
COMMENT ON TABLE newsloom.article_urls IS
    'Which article a URL means: one row a canonical key. Two articles that share one are merged.';
COMMENT ON COLUMN newsloom.article_urls.url_id IS
    'The first 16 bytes of SHA-256("newsloom:1" NUL key), the key being that of canonical_url.';
COMMENT ON COLUMN newsloom.article_urls.article_id IS 'The article; never a merged one.';
COMMENT ON COLUMN newsloom.article_urls.kind IS 'Which field it came from; the most trusted, if several.';
COMMENT ON COLUMN newsloom.article_urls.url IS 'As it was given.';
COMMENT ON COLUMN newsloom.article_urls.canonical_url IS 'In canonical form, clickable.';

CREATE TABLE newsloom.related_articles (
    article_id uuid NOT NULL,
    related_article_id uuid NOT NULL,
    position smallint NOT NULL,
    CONSTRAINT related_articles_pkey PRIMARY KEY (article_id, position)
);
CREATE INDEX related_articles_related_idx ON newsloom.related_articles (related_article_id);
COMMENT ON TABLE newsloom.related_articles IS
    'The related list of each article''s current content; replaced together with it.';
COMMENT ON COLUMN newsloom.related_articles.article_id IS 'The article whose record has the list.';
COMMENT ON COLUMN newsloom.related_articles.related_article_id IS 'The article in the list; never a merged one.';
COMMENT ON COLUMN newsloom.related_articles.position IS 'Place in the list, from 1, without gaps.';

RESET ROLE;

-- migrate:down
DROP TABLE newsloom.related_articles;
DROP TABLE newsloom.article_urls;
DROP TABLE newsloom.article_contents;
DROP TABLE newsloom.articles;
DROP FUNCTION newsloom.search_vector(text, text, text, text);
DROP FUNCTION newsloom.search_config(text);
DROP TYPE newsloom.url_kind;
