"""Overview: is it fresh, is it losing anything, does it keep up. The first row answers."""

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

_LATE = steps((None, GREEN), (60, ORANGE), (300, RED))
_ANY_IS_BAD = steps((None, GREEN), (1, RED))

_FIRST_ROW = [
    stat(
        "Oldest waiting record",
        """How long the oldest record that Kafka holds has waited. Orange: later than the freshness
        objective (60 s). Red: readers see old news, an alert fires.""",
        prom('max(newsloom_consumer_lag_seconds{job=~"$job"})'),
        unit="s",
        thresholds=_LATE,
        no_value="nobody ingests",
    ),
    stat(
        "Unaccounted deliveries",
        """Deliveries consumed minus the sum of their outcomes: 0, or something was lost or counted
        twice.""",
        prom(
            """sum(newsloom_deliveries_consumed_total{job=~"$job"})
            - sum(newsloom_records_total{job=~"$job"})"""
        ),
        unit="none",
        thresholds=steps((None, RED), (0, GREEN), (1, RED)),
    ),
    stat(
        "Rejected",
        """Share of the deliveries of this time range that became dead letters. Orange: more than
        the loss objective allows (0.1 %). Red: the month's budget is burning.""",
        prom(
            """(sum(increase(newsloom_rejected_total{job=~"$job", reason!="erased"}[$__range]))
            / (sum(increase(newsloom_deliveries_consumed_total{job=~"$job"}[$__range])) > 0))
            or vector(0)"""
        ),
        unit="percentunit",
        thresholds=steps((None, GREEN), (0.001, ORANGE), (0.0144, RED)),
        decimals=2,
    ),
    stat(
        "Waiting records",
        """Records in Kafka that are not in Postgres yet. The curve matters: it must come down
        again.""",
        prom('sum(max by (job, topic, partition) (newsloom_consumer_lag_records{job=~"$job"}))'),
        unit="short",
        thresholds=steps((None, GREEN), (5_000, ORANGE), (100_000, RED)),
        no_value="nobody ingests",
    ),
    stat(
        "Parked partitions",
        "Partitions that stopped and wait for an operator: newsloom offsets show tells why.",
        prom('sum(max by (job, topic, partition) (newsloom_partition_parked{job=~"$job"}))'),
        unit="none",
        thresholds=_ANY_IS_BAD,
    ),
    stat(
        "Alerts firing",
        "Alerts of newsloom that fire now, pages and tickets. Their names lead to ops/runbook.md.",
        prom('count(ALERTS{alertname=~"Newsloom.+", alertstate="firing"}) or vector(0)'),
        unit="none",
        thresholds=_ANY_IS_BAD,
    ),
]

_FLOW = [
    series(
        "Deliveries by outcome",
        """What became of each delivery, a second. All of them add up to what was consumed.""",
        prom(
            'sum by (outcome) (rate(newsloom_records_total{job=~"$job"}[$__rate_interval]))',
            "{{outcome}}",
        ),
        unit="cps",
        stacked=True,
        size=(12, 8),
    ),
    series(
        "From Kafka to Postgres",
        """Time from a record's arrival in Kafka to its commit in Postgres. The dashed line is the
        freshness objective. High with low lag: see the Pipeline dashboard, stage durations.""",
        *(
            prom(
                f"""histogram_quantile({quantile}, sum by (le)
                (rate(newsloom_end_to_end_seconds_bucket{{job=~"$job"}}[$__rate_interval])))""",
                f"p{round(quantile * 100)}",
            )
            for quantile in (0.5, 0.95, 0.99)
        ),
        unit="s",
        thresholds=steps((None, GREEN), (60, ORANGE)),
        size=(12, 8),
    ),
    series(
        "Waiting records by partition",
        """Records between the stored position and the end of the partition. One partition alone:
        parked, stuck, or a hot key. All of them: more arrives than is ingested.""",
        prom(
            """max by (topic, partition) (newsloom_consumer_lag_records{job=~"$job"})""",
            "{{topic}}/{{partition}}",
        ),
        unit="short",
        size=(12, 8),
    ),
    series(
        "Error budgets, last hour",
        """Freshness: share of partition time with something waiting for more than 60 s (1 % is
        allowed). Loss: share of deliveries rejected (0.1 % is allowed). Pages come at 14.4
        times the allowed share.""",
        prom('slo:newsloom_freshness_errors:ratio_rate1h{job=~"$job"}', "freshness"),
        prom('slo:newsloom_loss_errors:ratio_rate1h{job=~"$job"}', "loss"),
        unit="percentunit",
        size=(12, 8),
    ),
]

_ARTICLES = [
    table(
        "Newest articles",
        "The articles that changed last, as readers see them.",
        sql(
            """
            SELECT title AS "Title", provider_name AS "Provider", language AS "Language",
                   revision AS "Revision", published_at AS "Published", revised_at AS "Stored"
              FROM api.articles
             WHERE NOT is_mention
             ORDER BY revised_at DESC
             LIMIT 15
            """
        ),
        size=(16, 9),
    ),
    table(
        "Processes",
        "Every process, its version and the partitions that it owns.",
        prom(
            """sum by (instance, version) (newsloom_build_info{job=~"$job"}
            * on (job, instance) group_left newsloom_partitions_owned{job=~"$job"})""",
            "{{instance}} {{version}}",
        )
        | {"format": "table", "instant": True, "range": False},
        size=(8, 9),
    ),
]

DASHBOARD = dashboard(
    "overview",
    "Overview",
    "Is it fresh, is it losing anything, does it keep up: the first row answers.",
    [
        row("Fresh? Losing? Keeping up?"),
        *_FIRST_ROW,
        row("Flow"),
        *_FLOW,
        row("What comes out"),
        *_ARTICLES,
    ],
)
