"""Pipeline: rows in the order of the flow; of each stage rate, errors, duration."""

from typing import Any

from ops.grafana.model import GREEN, ORANGE, RED, Panel, dashboard, prom, row, series, steps

_SELECT = '{job=~"$job", instance=~"$instance"}'


def _rate(metric: str, *by: str, where: str = "", legend: str = "") -> dict[str, Any]:
    select = _SELECT if not where else _SELECT.replace("}", f", {where}}}")
    expr = f"rate({metric}{select}[$__rate_interval])"
    grouped = f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"
    return prom(grouped, legend or " ".join(f"{{{{{label}}}}}" for label in by) or metric)


def _quantiles(histogram: str, *by: str, of: tuple[float, ...] = (0.5, 0.95, 0.99)) -> list[Any]:
    groups = ", ".join([*by, "le"])
    prefix = "".join(f"{{{{{label}}}}} " for label in by)
    return [
        prom(
            f"""histogram_quantile({quantile}, sum by ({groups})
            (rate({histogram}_bucket{_SELECT}[$__rate_interval])))""",
            f"{prefix}p{round(quantile * 100)}",
        )
        for quantile in of
    ]


def _gauge(expr: str, legend: str) -> dict[str, Any]:
    return prom(expr.replace("$SELECT", _SELECT), legend)


_PUBLISH: list[Panel] = [
    series(
        "Publish: records",
        """Records that publish is done with. Refused: validation, the report says why. Failed: not
        in Kafka, to be published again. Empty when nobody publishes from a process that is
        scraped.""",
        _rate("newsloom_published_records_total", "result"),
        unit="cps",
        stacked=True,
    ),
    series(
        "Publish: time to acknowledgement",
        "Time from handing an event to the Kafka client until all replicas have it.",
        *_quantiles("newsloom_publish_duration_seconds"),
        unit="s",
    ),
    series(
        "Publish: bytes",
        "Bytes of event values that Kafka accepted, before compression.",
        _rate("newsloom_published_bytes_total", legend="bytes"),
        unit="Bps",
    ),
]

_POLL: list[Panel] = [
    series(
        "Lag in seconds",
        """How long the oldest waiting record of a partition has waited. The lines are the freshness
        objective and the alert.""",
        _gauge(
            "max by (topic, partition) (newsloom_consumer_lag_seconds$SELECT)",
            "{{topic}}/{{partition}}",
        ),
        unit="s",
        thresholds=steps((None, GREEN), (60, ORANGE), (300, RED)),
    ),
    series(
        "Bulk imports: waiting, held",
        """Deliveries of newsloom publish --backfill still to be read; and how many processes hold
        them back at the moment, because a live delivery has waited for 2 seconds.""",
        _gauge("sum(newsloom_backfill_waiting_records$SELECT)", "waiting"),
        _gauge("sum(newsloom_backfill_held$SELECT)", "processes that hold them back"),
        unit="none",
    ),
    series(
        "Partitions owned, partitions parked",
        """Which process writes for how many partitions. A process with none is a spare. Parked
        above 0: see newsloom offsets show.""",
        _gauge("newsloom_partitions_owned$SELECT", "{{instance}}"),
        _gauge("sum(max by (job, topic, partition) (newsloom_partition_parked$SELECT))", "parked"),
        unit="none",
    ),
    series(
        "Group and polls: what went wrong",
        """Rebalances: members came or went. Fenced: a batch was given up because another process
        owns the partition. Poll errors: Kafka could not be read. A few at a rollout are normal.""",
        _rate("newsloom_rebalances_total", "instance", legend="rebalances {{instance}}"),
        _rate("newsloom_fenced_total", "instance", legend="fenced {{instance}}"),
        _rate("newsloom_poll_errors_total", "instance", legend="poll errors {{instance}}"),
        unit="cps",
    ),
]

_DECODE: list[Panel] = [
    series(
        "Decode: deliveries and mentions",
        "Deliveries consumed, and related entries observed in them.",
        _rate("newsloom_deliveries_consumed_total", legend="deliveries"),
        _rate("newsloom_mentions_total", legend="mentions"),
        unit="cps",
    ),
    series(
        "Decode: values left out",
        """Invalid values of records that were kept, by field; and fields that the model does not
        know. A jump means that a publisher changed its format.""",
        _rate("newsloom_dropped_values_total", "field"),
        _rate("newsloom_unknown_fields_total", legend="unknown fields"),
        unit="cps",
    ),
    series(
        "Decode: rejected",
        "Dead letters by reason. The Dead letters dashboard shows each of them.",
        _rate("newsloom_rejected_total", "reason"),
        unit="cps",
        stacked=True,
    ),
]

_STORE: list[Panel] = [
    series(
        "Batch: where the time goes",
        """Seconds of each stage a second of time, all processes together. The largest is what to
        look at: decode and fold are CPU, the others wait for Postgres.""",
        _rate("newsloom_batch_duration_seconds_sum", "stage"),
        unit="s",
        stacked=True,
    ),
    series(
        "Batch: duration of a stage, p95",
        "95 of 100 batches spent less than this in a stage.",
        *_quantiles("newsloom_batch_duration_seconds", "stage", of=(0.95,)),
        unit="s",
        log=True,
    ),
    series(
        "Batch: size",
        """Deliveries in a committed batch. Always at NEWSLOOM_INGEST_MAX_BATCH_RECORDS: ingest is
        behind, add replicas.""",
        *_quantiles("newsloom_batch_records", of=(0.5, 0.95)),
        unit="none",
    ),
    series(
        "Store: outcomes",
        "What became of each delivery.",
        _rate("newsloom_records_total", "outcome"),
        unit="cps",
        stacked=True,
    ),
    series(
        "Store: what went wrong",
        """Splits: a batch was halved to find a record that Postgres refuses. Unanswered: a COMMIT
        whose answer was lost. Retries: waits for a dependency; nothing is lost meanwhile.""",
        _rate("newsloom_batch_splits_total", legend="splits"),
        _rate("newsloom_commit_unknown_total", legend="unanswered commits"),
        _rate("newsloom_retries_total", "dependency", legend="retries {{dependency}}"),
        unit="cps",
    ),
    series(
        "Store: time since the last commit",
        """Of each process. Growing is normal while nothing arrives; with lag above 0 it is stuck.
        Starts with the first commit.""",
        _gauge(
            "time() - (newsloom_last_commit_timestamp_seconds$SELECT > 0)",
            "{{instance}}",
        ),
        unit="s",
    ),
    series(
        "Postgres: connections",
        """Connections of the pool by state, and the most that it may open. In use at the limit for
        long: partitions wait for one another.""",
        _gauge(
            "sum by (state) (newsloom_database_pool_connections$SELECT)",
            "{{state}}",
        ),
        _gauge("sum(newsloom_database_pool_max_connections$SELECT)", "limit"),
        unit="none",
    ),
    series(
        "Dependencies",
        """1: it answered last time. 0 at a process that wants it: newsloom doctor says what is
        wrong.""",
        _gauge(
            "min by (dependency) (newsloom_dependency_usable$SELECT)",
            "{{dependency}}",
        ),
        unit="none",
    ),
    series(
        "End to end",
        "Time from a record's arrival in Kafka to its commit in Postgres.",
        *_quantiles("newsloom_end_to_end_seconds"),
        unit="s",
        log=True,
    ),
]

_LINK: list[Panel] = [
    series(
        "Link: lag",
        """Age of the oldest change that the linker works on, 0 when it has caught up. Copies and
        stories are that old; articles themselves are not late.""",
        _gauge("max by (instance) (newsloom_link_lag_seconds$SELECT)", "{{instance}}"),
        unit="s",
        thresholds=steps((None, GREEN), (300, ORANGE)),
    ),
    series(
        "Link: articles, copies, stories",
        """Articles compared with the window, links from a copy to what it repeats, and changes of
        stories by kind.""",
        _rate("newsloom_linked_articles_total", legend="articles"),
        _rate("newsloom_copies_linked_total", legend="copies"),
        _rate("newsloom_story_changes_total", "kind", legend="story {{kind}}"),
        unit="cps",
    ),
    series(
        "Link: window",
        "Articles that the linker holds in memory: NEWSLOOM_LINK_WINDOW_HOURS bounds them.",
        _gauge("sum by (instance) (newsloom_link_window_articles$SELECT)", "{{instance}}"),
        unit="short",
        size=(4, 8),
    ),
    series(
        "Link: memory",
        "Bytes of the linker's index. Too much: lower NEWSLOOM_LINK_WINDOW_HOURS.",
        _gauge("sum by (instance) (newsloom_link_index_bytes$SELECT)", "{{instance}}"),
        unit="bytes",
        size=(4, 8),
    ),
]

_RECEIPTS: list[Panel] = [
    series(
        "Store: receipts",
        """Receipts for publishers that wait until their record is stored. Lost: Kafka did not take
        them; whoever waits runs into a time-out. Empty when nobody asks.""",
        _rate("newsloom_receipts_total", "result"),
        unit="cps",
        stacked=True,
    ),
]

_RELAY: list[Panel] = [
    series(
        "Relay: lag",
        """Age of the oldest change that is not in the changes topic yet, 0 when none waits. Whoever
        mirrors newsloom is that late; articles themselves are not.""",
        _gauge("max by (instance) (newsloom_relay_lag_seconds$SELECT)", "{{instance}}"),
        unit="s",
        thresholds=steps((None, GREEN), (300, ORANGE)),
    ),
    series(
        "Relay: oldest dead letter waiting",
        """Age of the oldest dead letter that is not in its Kafka topic yet, 0 when none waits. They
        stay in Postgres; newsloom topics show tells what is wrong with the topic.""",
        _gauge(
            "max by (instance) (newsloom_relay_oldest_dead_letter_seconds$SELECT)", "{{instance}}"
        ),
        unit="s",
        thresholds=steps((None, GREEN), (900, ORANGE)),
    ),
    series(
        "Relay: messages",
        "Messages that the relay has sent: changes of articles and stories, and dead letters.",
        _rate("newsloom_relayed_total", "entity"),
        unit="cps",
    ),
]

_CHANGE_LOG: list[Panel] = [
    series(
        "Change log: horizon held for",
        """How long the oldest open write transaction has held the change log back. A second or two
        are normal. Longer: link and relay stand still until that session ends, see the runbook.""",
        _gauge("max by (instance) (newsloom_change_horizon_age_seconds$SELECT)", "{{instance}}"),
        unit="s",
        thresholds=steps((None, GREEN), (120, ORANGE)),
    ),
    series(
        "Providers that are silent",
        """Providers that have been silent for longer than is usual for them. The News dashboard
        names them.""",
        _gauge("max(newsloom_silent_providers$SELECT)", "silent"),
        unit="none",
    ),
]

_PROCESS: list[Panel] = [
    series(
        "Event loop lag, p99",
        """How late the event loop wakes a sleeper. Above 1 s heartbeats are at risk: smaller
        batches or more CPU.""",
        *_quantiles("newsloom_event_loop_lag_seconds", "instance", of=(0.99,)),
        unit="s",
        thresholds=steps((None, GREEN), (1, RED)),
    ),
    series(
        "Time since the loop made progress",
        """The process ends itself at NEWSLOOM_INGEST_WATCHDOG_SECONDS (60 s unless set); an alert
        comes at 30 s.""",
        _gauge("newsloom_watchdog_progress_age_seconds$SELECT", "{{instance}}"),
        unit="s",
        thresholds=steps((None, GREEN), (30, RED)),
    ),
    series(
        "CPU",
        "Cores in use. One process cannot use much more than one: add processes.",
        _rate("process_cpu_seconds_total", "instance"),
        unit="none",
    ),
    series(
        "Memory",
        "Resident memory. It is bounded by the batches held: steady growth is a leak.",
        _gauge("process_resident_memory_bytes$SELECT", "{{instance}}"),
        unit="bytes",
    ),
    series(
        "File descriptors",
        "Open descriptors: connections to Kafka, Postgres, the admin port.",
        _gauge("process_open_fds$SELECT", "{{instance}}"),
        unit="none",
    ),
    series(
        "Versions",
        "Processes by version. Several for long: a rollout has stopped half way.",
        _gauge("sum by (version) (newsloom_build_info$SELECT)", "{{version}}"),
        unit="none",
        stacked=True,
    ),
]

DASHBOARD = dashboard(
    "pipeline",
    "Pipeline",
    "The stages in the order of the flow; of each rate, errors and duration.",
    [
        row("Publish"),
        *_PUBLISH,
        row("Kafka"),
        *_POLL,
        row("Decode and enrich"),
        *_DECODE,
        row("Fold and store"),
        *_STORE,
        *_RECEIPTS,
        row("Link"),
        *_LINK,
        row("Relay"),
        *_RELAY,
        row("Change log"),
        *_CHANGE_LOG,
        row("Process"),
        *_PROCESS,
    ],
)
