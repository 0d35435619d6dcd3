"""An analysis in parts by submitit: on Slurm where there is one, else on this machine.

    python examples/parts_submitit.py RUN PLAN [PARTS]
"""

import sys

import submitit

import lpa


class Part(submitit.helpers.Checkpointable):
    """Makes a part. When its time is over, or its node is taken, it is submitted anew as it is."""

    def __call__(self, plan, part):
        return lpa.partial(plan, part, threads=1)


def analyze(run, plan, parts, executor):
    lpa.plan(run, parts, plan)
    # What is done is told by the files; jobs that have failed are submitted again, but not for ever.
    for _ in range(3):
        if missing := lpa.missing(plan):
            for job in executor.map_array(Part(), [plan] * len(missing), missing):
                job.exception()
    return lpa.merge(plan, wait=60)


if __name__ == "__main__":
    run, plan, parts = sys.argv[1], sys.argv[2], int((sys.argv[3:] or [64])[0])
    executor = submitit.AutoExecutor(f"{plan}/logs")
    executor.update_parameters(timeout_min=240, slurm_array_parallelism=32)
    print(analyze(run, plan, parts, executor))
