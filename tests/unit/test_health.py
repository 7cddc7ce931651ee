"""Health: alive is not the same as ready, and both say why."""

from newsloom.health import Health


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def health(clock: Clock | None = None, *, owns_partitions: bool = True) -> Health:
    return Health(
        needs=("kafka", "postgres"),
        owns_partitions=owns_partitions,
        stall_after_seconds=60,
        clock=clock or Clock(),
    )


def working() -> Health:
    state = health()
    state.usable("kafka")
    state.usable("postgres")
    state.owned(2)
    return state


def test_a_new_process_is_alive_and_not_ready_and_says_what_it_waits_for() -> None:
    state = health()
    assert state.live().ok
    assert state.ready().reasons == (
        "kafka is not usable (not reached yet)",
        "postgres is not usable (not reached yet)",
        "partitions are not assigned yet",
    )


def test_a_process_that_can_work_is_ready_also_when_it_owns_nothing() -> None:
    state = working()
    assert state.ready().ok
    state.owned(0)
    assert state.ready().as_json() == {"status": "ok", "reasons": []}


def test_a_role_without_partitions_does_not_wait_for_them() -> None:
    state = health(owns_partitions=False)
    state.usable("kafka")
    state.usable("postgres")
    assert state.ready().ok


def test_a_dependency_that_is_away_takes_readiness_and_leaves_life() -> None:
    state = working()
    state.away("postgres", "57P03")
    assert state.live().ok
    assert state.ready().reasons == ("postgres is not usable (57P03)",)
    state.usable("postgres")
    assert state.ready().ok


def test_a_loop_that_stops_moving_is_neither_alive_nor_ready() -> None:
    clock = Clock()
    state = health(clock)
    clock.now += 60
    assert state.live().ok
    clock.now += 1
    assert state.live().reasons == ("the main loop has not moved for 61 seconds",)
    assert not state.ready().ok
    state.beat()
    assert state.live().ok
    assert state.progress_age_seconds == 0


def test_parked_partitions_rebalances_and_shutdown_take_readiness() -> None:
    state = working()
    state.park("news", 3, "topic.identity")
    assert state.ready().reasons == ("news/3 is parked (topic.identity)",)
    state.unpark("news", 3)
    state.unpark("news", 3)
    assert state.ready().ok
    state.unassigned()
    assert not state.ready().ok
    state.owned(1)
    state.drain()
    assert state.ready().reasons == ("shutting down",)
