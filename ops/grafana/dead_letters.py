"""Dead letters: what was rejected, why, and what has been done about it."""

from ops.grafana.model import (
    GREEN,
    ORANGE,
    RED,
    dashboard,
    prom,
    row,
    series,
    sql,
    stat,
    steps,
    table,
)

_FIGURES = [
    stat(
        "Set aside",
        "Dead letters written within this time range.",
        sql("SELECT count(*) AS letters FROM api.dead_letters WHERE $__timeFilter(created_at)"),
        unit="short",
        size=(6, 5),
    ),
    stat(
        "Not replayed",
        "Dead letters of all times that nobody has tried again, those of erased articles aside.",
        sql(
            """
            SELECT count(*) AS letters
              FROM api.dead_letters
             WHERE replayed_at IS NULL AND reason <> 'erased'
            """
        ),
        unit="short",
        thresholds=steps((None, GREEN), (1, ORANGE)),
        size=(6, 5),
    ),
    stat(
        "Rejected now",
        "Share of deliveries rejected in the last minutes. Orange: above the loss objective.",
        prom(
            """(sum(rate(newsloom_rejected_total{job=~"$job", reason!="erased"}[$__rate_interval]))
            / (sum(rate(newsloom_deliveries_consumed_total{job=~"$job"}[$__rate_interval])) > 0))
            or vector(0)"""
        ),
        unit="percentunit",
        thresholds=steps((None, GREEN), (0.001, ORANGE), (0.2, RED)),
        decimals=2,
        size=(6, 5),
    ),
    stat(
        "Refused as erased",
        """Deliveries of articles that were taken down, refused within this time range. As it
        should be.""",
        prom('sum(increase(newsloom_rejected_total{job=~"$job", reason="erased"}[$__range]))'),
        unit="short",
        decimals=0,
        size=(6, 5),
    ),
]

_WHY = [
    series(
        "By reason",
        """Dead letters a second. One reason alone: a publisher. Reasons db.data and crash.loop:
        newsloom or Postgres.""",
        prom(
            """sum by (reason)
            (rate(newsloom_rejected_total{job=~"$job"}[$__rate_interval]))""",
            "{{reason}}",
        ),
        unit="cps",
        stacked=True,
        size=(12, 9),
    ),
    table(
        "By reason and detail",
        """What to mend first: the commonest reasons of this time range, with what their details
        say.""",
        sql(
            """
            SELECT reason AS "Reason", left(detail, 160) AS "Detail", count(*) AS "Letters",
                   count(*) FILTER (WHERE replayed_at IS NULL) AS "Not replayed",
                   max(created_at) AS "Last"
              FROM api.dead_letters
             WHERE $__timeFilter(created_at)
             GROUP BY 1, 2
             ORDER BY 3 DESC, 5 DESC
             LIMIT 50
            """
        ),
        size=(12, 9),
    ),
]

_EACH = [
    table(
        "Newest",
        """Each dead letter with its place in Kafka. newsloom dead-letters show
        TOPIC/PARTITION/OFFSET shows its bytes.""",
        sql(
            """
            SELECT created_at AS "Set aside", reason AS "Reason", detail AS "Detail",
                   kafka_topic || '/' || kafka_partition || '/' || kafka_offset AS "Place",
                   observed_at AS "Observed", replayed_at AS "Replayed", replay_count AS "Replays"
              FROM api.dead_letters
             WHERE $__timeFilter(created_at)
             ORDER BY created_at DESC
             LIMIT 100
            """
        ),
        size=(24, 11),
    ),
    table(
        "Partitions",
        """How far each partition has been ingested, its outcomes of all times, and why it waits,
        if it does.""",
        sql(
            """
            SELECT kafka_topic AS "Kafka topic", kafka_partition AS "Partition",
                   next_offset AS "Next offset", created AS "Created", revised AS "Revised",
                   refreshed AS "Refreshed", unchanged AS "Unchanged", stale AS "Stale",
                   rejected AS "Rejected", skipped AS "Skipped", parked_reason AS "Parked because",
                   updated_at AS "Moved"
              FROM api.ingest_progress
             ORDER BY 1, 2
            """
        ),
        colored={"Skipped": steps((None, GREEN), (1, ORANGE))},
        size=(24, 8),
    ),
]

DASHBOARD = dashboard(
    "dead-letters",
    "Dead letters",
    "What was rejected, why, and what has been done about it.",
    [row("How many"), *_FIGURES, row("Why"), *_WHY, row("Which"), *_EACH],
    since="now-24h",
    refresh="1m",
)
