"""News: what is in the database, who publishes it, what is missing. All from schema api."""

from ops.grafana.model import GREEN, ORANGE, dashboard, row, series, sql, stat, steps, table

_FIGURES = [
    stat(
        "Articles, new",
        "Articles first seen within this time range, mentions aside.",
        sql(
            """
            SELECT count(*) AS articles
              FROM api.articles
             WHERE NOT is_mention AND $__timeFilter(first_seen_at)
            """
        ),
        unit="short",
        size=(4, 4),
    ),
    stat(
        "Mentions, new",
        "Articles known only from the related lists of others, first seen within this time range.",
        sql(
            """
            SELECT count(*) AS mentions
              FROM api.articles
             WHERE is_mention AND $__timeFilter(first_seen_at)
            """
        ),
        unit="short",
        size=(4, 4),
    ),
    stat(
        "Articles, revised",
        """Articles whose present content is not their first and was observed within this time
        range.""",
        sql(
            """
            SELECT count(*) AS revised
              FROM api.articles
             WHERE revision > 1 AND $__timeFilter(revised_at)
            """
        ),
        unit="short",
        size=(4, 4),
    ),
    stat(
        "Providers heard from",
        "Providers of whom anything was observed within this time range.",
        sql(
            """
            SELECT count(DISTINCT provider_domain) AS providers
              FROM api.articles
             WHERE NOT is_mention AND $__timeFilter(observed_at)
            """
        ),
        unit="short",
        size=(4, 4),
    ),
    stat(
        "Copies",
        "Share of the articles first seen within this time range whose text repeats another's.",
        sql(
            """
            SELECT coalesce(avg((copy_of IS NOT NULL)::int), 0)::float8 AS share
              FROM api.articles
             WHERE NOT is_mention AND $__timeFilter(first_seen_at)
            """
        ),
        unit="percentunit",
        size=(4, 4),
    ),
    stat(
        "Stories",
        "Stories with an article published within this time range.",
        sql("SELECT count(*) AS stories FROM api.stories WHERE $__timeFilter(last_published_at)"),
        unit="short",
        size=(4, 4),
    ),
]

_OVER_TIME = [
    series(
        "Articles an hour, by provider",
        """New or with new content, mentions aside; the ten providers with most of them, and the
        others together.""",
        sql(
            """
            WITH seen AS (
              SELECT hour, coalesce(provider_name, provider_domain, 'unknown') AS provider, articles
                FROM api.provider_hours($__timeFrom(), $__timeTo())
            ), largest AS (
              SELECT provider FROM seen GROUP BY provider ORDER BY sum(articles) DESC, provider
               LIMIT 10
            )
            SELECT hour AS "time",
                   coalesce(largest.provider, 'others') AS metric, sum(articles)::float8 AS articles
              FROM seen LEFT JOIN largest USING (provider)
             GROUP BY 1, 2
             ORDER BY 1
            """,
            over_time=True,
        ),
        unit="short",
        stacked=True,
        bars=True,
        size=(12, 9),
    ),
    series(
        "Articles an hour, by topic",
        """First seen, mentions aside; the ten topics with most of them. An article may have
        several.""",
        sql(
            """
            WITH seen AS (
              SELECT $__timeGroup(first_seen_at, '1h') AS hour, topic
                FROM api.articles, unnest(topics) AS topic
               WHERE NOT is_mention AND $__timeFilter(first_seen_at)
            ), largest AS (
              SELECT topic FROM seen GROUP BY topic ORDER BY count(*) DESC, topic LIMIT 10
            )
            SELECT hour AS "time", topic AS metric, count(*) AS articles
              FROM seen JOIN largest USING (topic)
             GROUP BY 1, 2
             ORDER BY 1
            """,
            over_time=True,
        ),
        unit="short",
        stacked=True,
        bars=True,
        size=(12, 9),
    ),
    series(
        "Pick-up delay",
        """From an article's publication, as its record says, to its first observation here; median
        and 90 of 100, each hour. Grows: the crawler before us is late, not the pipeline.""",
        sql(
            """
            SELECT $__timeGroupAlias(first_seen_at, '1h'),
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS "median",
                   percentile_cont(0.9) WITHIN GROUP (ORDER BY delay) AS "p90"
              FROM (
                SELECT first_seen_at,
                       greatest(0, extract(epoch FROM first_seen_at - published_at))::float8
                         AS delay
                  FROM api.articles
                 WHERE NOT is_mention AND published_at IS NOT NULL
                   AND $__timeFilter(first_seen_at)
              ) AS picked
             GROUP BY 1
             ORDER BY 1
            """,
            over_time=True,
        ),
        unit="s",
        log=True,
        size=(12, 8),
    ),
    series(
        "Copies an hour",
        "Articles first seen whose text repeats another's, and the others.",
        sql(
            """
            SELECT $__timeGroupAlias(first_seen_at, '1h'),
                   count(*) FILTER (WHERE copy_of IS NOT NULL) AS "copies",
                   count(*) FILTER (WHERE copy_of IS NULL) AS "originals"
              FROM api.articles
             WHERE NOT is_mention AND $__timeFilter(first_seen_at)
             GROUP BY 1
             ORDER BY 1
            """,
            over_time=True,
        ),
        unit="short",
        stacked=True,
        bars=True,
        size=(12, 8),
    ),
]

_PROVIDERS = [
    table(
        "Providers",
        """Of each provider within this time range: articles, and the shares of them that are
        copies or lack a value. A share that jumps means that its format has changed.""",
        sql(
            """
            SELECT coalesce(max(provider_name), provider_domain) AS "Provider",
                   sum(articles)::float8 AS "Articles",
                   (sum(copies) / sum(articles))::float8 AS "Copies",
                   (sum(without_date) / sum(articles))::float8 AS "No date",
                   (sum(without_excerpt) / sum(articles))::float8 AS "No excerpt",
                   (sum(without_body) / sum(articles))::float8 AS "No body",
                   (sum(without_image) / sum(articles))::float8 AS "No image"
              FROM api.provider_hours($__timeFrom(), $__timeTo())
             WHERE provider_domain IS NOT NULL
             GROUP BY provider_domain
             ORDER BY 2 DESC, 1
             LIMIT 50
            """
        ),
        units=dict.fromkeys(
            ("Copies", "No date", "No excerpt", "No body", "No image"), "percentunit"
        ),
        size=(14, 10),
    ),
    table(
        "Silent providers",
        """Providers of whom nothing new was observed for longer than is usual for them, or for a
        day. Unusual: three times the gap below which 95 of 100 of theirs are; an alert names the
        number. After a week a provider counts as gone.""",
        sql(
            """
            SELECT coalesce(p.name, s.provider_domain) AS "Provider",
                   p.article_count AS "Articles", s.last_seen_at AS "Last seen",
                   date_part('epoch', s.silent_for) AS "Silent for",
                   date_part('epoch', s.usual_gap) AS "Usual gap",
                   s.is_silent::int AS "Unusual"
              FROM api.provider_silence AS s
              LEFT JOIN api.providers AS p USING (provider_domain)
             WHERE s.is_silent OR s.silent_for > interval '1 day'
             ORDER BY s.is_silent DESC, s.last_seen_at
             LIMIT 50
            """
        ),
        units={"Silent for": "s", "Usual gap": "s"},
        colored={"Unusual": steps((None, GREEN), (1, ORANGE))},
        size=(10, 10),
    ),
]

_STORIES = [
    table(
        "Stories that grow",
        "Stories by the articles that they gained within this time range.",
        sql(
            """
            SELECT s.title AS "Story", count(*) AS "Gained", s.article_count AS "Articles",
                   s.provider_count AS "Providers", s.first_published_at AS "Since",
                   s.last_published_at AS "Until"
              FROM api.stories AS s
              JOIN api.story_articles AS m USING (story_id)
              JOIN api.articles AS a USING (article_id)
             WHERE $__timeFilter(a.first_seen_at)
             GROUP BY s.story_id, s.title, s.article_count, s.provider_count,
                      s.first_published_at, s.last_published_at
             ORDER BY 2 DESC, 3 DESC
             LIMIT 20
            """
        ),
        size=(12, 9),
    ),
    table(
        "Newest copies",
        "Articles whose text repeats another's, with the shared share of their texts.",
        sql(
            """
            SELECT a.title AS "Copy", a.provider_name AS "Provider", o.title AS "Of",
                   o.provider_name AS "By", k.jaccard::float8 AS "Jaccard",
                   k.containment::float8 AS "Contained"
              FROM api.copies AS k
              JOIN api.articles AS a ON a.article_id = k.article_id
              JOIN api.articles AS o ON o.article_id = k.copy_of
             WHERE $__timeFilter(a.first_seen_at)
             ORDER BY a.first_seen_at DESC
             LIMIT 20
            """
        ),
        units={"Jaccard": "percentunit", "Contained": "percentunit"},
        size=(12, 9),
    ),
    table(
        "Newest revisions",
        "Articles that changed after their first content, and what changed.",
        sql(
            """
            SELECT r.title AS "Title", r.revision AS "Revision", r.observed_at AS "Observed",
                   array_to_string(r.changed_fields, ', ') AS "Changed"
              FROM api.article_revisions AS r
             WHERE r.revision > 1 AND $__timeFilter(r.observed_at)
             ORDER BY r.observed_at DESC
             LIMIT 20
            """
        ),
        size=(14, 9),
    ),
    table(
        "Languages",
        """Articles observed within this time range by language; unknown when undeclared and too
        short.""",
        sql(
            """
            SELECT coalesce(language, 'unknown') AS "Language", count(*) AS "Articles",
                   avg(word_count)::float8 AS "Words"
              FROM api.articles
             WHERE NOT is_mention AND $__timeFilter(observed_at)
             GROUP BY language
             ORDER BY 2 DESC
             LIMIT 20
            """
        ),
        units={"Words": "short"},
        size=(10, 9),
    ),
]

DASHBOARD = dashboard(
    "news",
    "News",
    "What is in the database, who publishes it, and what is missing.",
    [
        row("In this time range"),
        *_FIGURES,
        row("Over time"),
        *_OVER_TIME,
        row("Providers"),
        *_PROVIDERS,
        row("Stories, copies, revisions"),
        *_STORIES,
    ],
    since="now-24h",
    refresh="5m",
)
