-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

CREATE TABLE newsloom.copies (
    article_id uuid NOT NULL,
    copy_of uuid NOT NULL,
    jaccard real NOT NULL,
    containment real NOT NULL,
    algorithm_version integer NOT NULL,
    CONSTRAINT copies_pkey PRIMARY KEY (article_id),
    CONSTRAINT copies_of_another CHECK (article_id <> copy_of)
);
CREATE INDEX copies_copy_of_idx ON newsloom.copies (copy_of);
COMMENT ON TABLE newsloom.copies IS 'Articles whose text repeats another''s. Written by the linker.';
COMMENT ON COLUMN newsloom.copies.article_id IS 'The copy.';
COMMENT ON COLUMN newsloom.copies.copy_of IS 'The article it repeats; never a copy itself.';
COMMENT ON COLUMN newsloom.copies.jaccard IS 'Shared share of all shingles of both, 0 to 1.';
COMMENT ON COLUMN newsloom.copies.containment IS 'Shared share of the shorter one''s shingles, 0 to 1.';
COMMENT ON COLUMN newsloom.copies.algorithm_version IS 'Which rules decided it.';

CREATE TABLE newsloom.stories (
    story_id uuid NOT NULL,
    version bigint NOT NULL,
    first_published_at timestamptz,
    last_published_at timestamptz,
    article_count integer NOT NULL,
    provider_count integer NOT NULL,
    merged_into uuid,
    title text NOT NULL,
    CONSTRAINT stories_pkey PRIMARY KEY (story_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE newsloom.stories IS 'Articles that tell one event, together. Written by the linker.';
COMMENT ON COLUMN newsloom.stories.story_id IS 'The story.';
COMMENT ON COLUMN newsloom.stories.version IS 'Rises with every public change.';
COMMENT ON COLUMN newsloom.stories.first_published_at IS 'When its first article was published.';
COMMENT ON COLUMN newsloom.stories.last_published_at IS 'When its latest article was published.';
COMMENT ON COLUMN newsloom.stories.article_count IS 'How many articles tell it.';
COMMENT ON COLUMN newsloom.stories.provider_count IS 'How many providers tell it.';
COMMENT ON COLUMN newsloom.stories.merged_into IS 'The story that this one turned out to be.';
COMMENT ON COLUMN newsloom.stories.title IS 'Title of the article that stands for it.';

CREATE TABLE newsloom.story_articles (
    article_id uuid NOT NULL,
    story_id uuid NOT NULL,
    score real NOT NULL,
    CONSTRAINT story_articles_pkey PRIMARY KEY (article_id)
);
CREATE INDEX story_articles_story_id_idx ON newsloom.story_articles (story_id);
COMMENT ON TABLE newsloom.story_articles IS 'Which story an article belongs to: one at most.';
COMMENT ON COLUMN newsloom.story_articles.article_id IS 'The article.';
COMMENT ON COLUMN newsloom.story_articles.story_id IS 'The story.';
COMMENT ON COLUMN newsloom.story_articles.score IS 'How well it fits, 0 to 1.';

RESET ROLE;

-- migrate:down
DROP TABLE newsloom.story_articles;
DROP TABLE newsloom.stories;
DROP TABLE newsloom.copies;
