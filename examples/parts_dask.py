"""An analysis in parts by Dask: on the workers of a scheduler, or on this machine.

    python examples/parts_dask.py RUN PLAN [PARTS] [ADDRESS]
"""

import sys

from dask.distributed import Client, wait

import lpa


def analyze(run, plan, parts, client):
    lpa.plan(run, parts, plan)
    # What is done is told by the files; what a lost worker has left is asked for again, but not for ever.
    for _ in range(3):
        if missing := lpa.missing(plan):
            # pure=False: a part that was made before is no result to be kept.
            wait(client.map(lambda part: lpa.partial(plan, part, threads=1), missing, pure=False), timeout=24 * 3600)
    return lpa.merge(plan, wait=60)


if __name__ == "__main__":
    run, plan, parts = sys.argv[1], sys.argv[2], int((sys.argv[3:] or [64])[0])
    with Client(*sys.argv[4:5]) as client:
        print(analyze(run, plan, parts, client))
