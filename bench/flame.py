"""`make flame`: where the CPU time of ingest goes, as a picture.

    python -m bench.flame [--workload small] [--records 60000] [--seconds 10] [--output FILE]

One process drains a backlog while py-spy looks 200 times a second which Python function holds the
interpreter, and draws what it saw: the wider a box, the more time went into it and what it called.
It looks from outside, so it needs the right to do so: root, or kernel.yama.ptrace_scope = 0.
"""

import argparse
import asyncio
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import uvloop

from bench.field import NEWSLOOM, STORED, Program, newsloom_env, running
from bench.stage import Stage, services
from bench.workloads import make

SAMPLES_A_SECOND = 200
WARM = 2_000
"""Records that are stored before the first look: imports and caches are not what is asked for."""
PATIENCE_SECONDS = 60.0
_PY_SPY = str(Path(sys.executable).with_name("py-spy"))
_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*')


def main() -> None:
    """Draw the picture, and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=("small", "updates", "full"), default="small")
    parser.add_argument("--records", type=int, default=60_000, help="how deep the backlog is")
    parser.add_argument("--seconds", type=int, default=10, help="how long to look")
    parser.add_argument("--output", type=Path, default=Path("docs/flame-ingest.svg"))
    options = parser.parse_args()
    with services() as stage:
        title = uvloop.run(_draw(stage, options))
    svg = options.output.read_text(encoding="utf-8")
    options.output.write_text(_TITLE.sub(rf"\g<1>{title}", svg), encoding="utf-8")
    print(f"{options.output}: {title}")


async def _draw(stage: Stage, options: argparse.Namespace) -> str:
    """Record while the backlog lasts; return what was recorded, as the picture's title."""
    await stage.prepare()
    topic = await stage.fill(options.workload, make(options.workload, options.records))
    async with stage.fresh_database() as dsn:
        connection = await asyncpg.connect(dsn)
        async with running([[NEWSLOOM, "ingest"]], newsloom_env(stage, dsn, topic)) as programs:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (before := await connection.fetchval(STORED)) < WARM:
                    programs[0].check()
                    await asyncio.sleep(0.05)
            await _spy(programs[0], options.seconds, options.output)
            after = await connection.fetchval(STORED)
        await connection.close()
    if after >= options.records:
        sys.exit("the backlog ended before the picture did: use more --records or fewer --seconds")
    return f"newsloom ingest, {after - before} records of the workload {options.workload}"


async def _spy(program: Program, seconds: int, output: Path) -> None:
    arguments = (
        "record", "--gil", "--function", "--nonblocking", "--rate", str(SAMPLES_A_SECOND),
        "--duration", str(seconds), "--pid", str(program.process.pid), "--output", str(output),
    )  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, [_PY_SPY, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"py-spy could not look: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    main()
