"""Real services that die, freeze, vanish and come back older: nothing lost, nothing doubled.

Short forms of the scenarios; `make chaos` runs them at length. NEWSLOOM_TEST_SEED repeats a run.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.catalogue import SHORT
from tests.faults.rig import Bench, open_rig

pytestmark = [pytest.mark.timeout(240), pytest.mark.faults]


def chosen_seed() -> int:
    """The seed that was asked for, else a new one; printed, so that a failure can be repeated."""
    seed = int(os.environ.get("NEWSLOOM_TEST_SEED", "") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return seed


@pytest.mark.parametrize("fault", SHORT)
async def test_after_a_fault_every_delivery_has_one_outcome(
    bench: Bench, tmp_path: Path, fault: str
) -> None:
    async with open_rig(bench, tmp_path, chosen_seed()) as rig:
        await SHORT[fault](rig)
        if rig.judged:
            return
        rig.figures["drained after s"] = await rig.drained()
        verdict = await rig.verdict()
        print(fault, rig.figures, verdict)  # noqa: T201 - as above
        assert verdict.holds, verdict.told()
        assert verdict.records >= verdict.acknowledged > 500
