"""`make simulate-faults`: seeded schedules of faults, each checked; those that fail by seed."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections import Counter

from tests.simulated.schedule import run


def main() -> int:
    """How many schedules broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulated", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first; each has the next one")
    parser.add_argument("--first", action="store_true", help="end at the first that fails")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--digests", action="store_true", help="print one of each schedule")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()  # what was imported needs no look after each schedule
    began, failed, faults, generations, refused = time.monotonic(), 0, Counter[str](), 0, 0
    for seed in range(options.seed, options.seed + options.schedules):
        ended = run(seed, trace=options.trace)
        faults += ended.faults
        generations += ended.generations
        refused += ended.writes_refused
        if options.digests:
            print(f"{seed} {ended.digest} {ended.steps}")
        if ended.broken:
            failed += 1
            print(f"seed {seed}:", *ended.broken[:8], sep="\n    ")
            print(f"    again: make simulate-faults SCHEDULES=1 SEED={seed} TRACE=1", flush=True)
            if options.first:
                return failed
    print(
        f"{options.schedules} schedules, {failed} broke a promise; {generations} generations, "
        f"{refused} writes of the deposed refused, {time.monotonic() - began:.0f} s"
    )
    for fault, times in sorted(faults.items()):
        print(f"    {times:7,} {fault}")
    return failed


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings are walked by their hashes
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulated", *sys.argv[1:]])
    # Who is buried before its first step leaves the coroutine that it was given.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.exit(min(main(), 100))
