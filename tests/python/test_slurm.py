"""A real Slurm on this machine makes the parts and the table, whatever happens to tasks."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from training import record_by_two_ranks

from conftest import BINARY, FIXTURES, ROOT

CLUSTER = ROOT / "tests" / "slurm" / "cluster.sh"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(name, path=PATH) for name in NEEDED),
    reason="no Slurm here: as root, apt-get install slurmctld slurmd slurm-client munge")


@contextlib.contextmanager
def started(**settings):
    """The environment in which its commands find it."""
    # The sockets of daemons have short paths.
    directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    subprocess.run([CLUSTER, "start", directory], check=True, timeout=120, env={**os.environ, **settings})
    try:
        yield {**os.environ, "PATH": PATH, "SLURM_CONF": str(directory / "slurm.conf")}
    finally:
        subprocess.run([CLUSTER, "stop", directory], check=True, timeout=120)
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def slurm():
    with started() as env:
        yield env


class Cluster:
    def __init__(self, env, directory):
        self.env, self.directory = env, directory

    def run(self, *args, **kwargs):
        done = subprocess.run(list(map(str, args)), env=self.env, capture_output=True, text=True, **kwargs)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(self, run, parts, *options, question=()):
        """A plan and its script, whose parts are slow where the file `slow` is there."""
        plan = self.directory / "it's a plan, 50%u"
        self.run(BINARY, "plan", run, "--parts", parts, "--out", plan, "--quiet", *question)
        self.run(BINARY, "slurm", plan, "--out", self.directory / "table.parquet", *options)
        slow = self.directory / "lpa"
        slow.write_text(f'#!/bin/sh\nif [ "$1" = partial ]; then\n'
                        f'    echo "$PPID $$ $SLURMD_NODENAME" > "{self.directory}/pids.$SLURM_ARRAY_TASK_ID"\n'
                        f'    while [ -e "{self.directory}/slow" ]; do sleep 0.1; done\nfi\nexec {BINARY} "$@"\n')
        slow.chmod(0o755)
        script = plan / "submit.sh"
        text = script.read_text()
        assert f"lpa='{BINARY}'" in text
        script.write_text(text.replace(f"lpa='{BINARY}'", f"lpa='{slow}'").replace("--wait 60", "--wait 2"))
        return plan

    def submit(self, plan):
        """Runs the script; returns the ids of the array, if there is one, and of the merge."""
        said = self.run("sh", plan / "submit.sh")
        return re.findall(r"job (\d+)", said)

    def slow(self, on):
        path = self.directory / "slow"
        path.touch() if on else path.unlink()

    def wait(self, until, seconds=90):
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.run("squeue")
            time.sleep(0.2)

    def kill(self, index):
        """Kills what makes a part, once it does."""
        self.wait(lambda: self.who(index)[0])
        for pid in self.who(index)[0]:
            os.kill(pid, signal.SIGKILL)

    def jobs(self, *options):
        return self.run("squeue", "-h", *options).split()

    def end(self):
        self.wait(lambda: not self.jobs())

    def who(self, index):
        """The processes that make the part of a number, and the node that they are on; nothing before they begin."""
        pids = self.directory / f"pids.{index}"
        text = pids.read_text() if pids.exists() else ""
        *pids, node = text.split() if text.endswith("\n") else [None]
        return [int(pid) for pid in pids], node

    def task(self, array, index):
        shown = self.run("scontrol", "-o", "show", "job", f"{array}_{index}")
        return dict(pair.split("=", 1) for pair in shown.split() if "=" in pair)


@pytest.fixture
def cluster(slurm, tmp_path):
    return Cluster(slurm, tmp_path)


@pytest.fixture
def expected(analyze):
    return analyze(FIXTURES / "digits_mlp").read_bytes()


def table(cluster):
    path = cluster.directory / "table.parquet"
    return path.read_bytes() if path.exists() else None


def test_parts_and_table_are_made(cluster, expected):
    plan = cluster.plan(FIXTURES / "digits_mlp", 7, "--throttle", "3", "--time", "5")
    assert len(cluster.submit(plan)) == 2
    cluster.end()
    assert table(cluster) == expected
    # Again: nothing is missing, so there is no array, and the table is up to date.
    (merge,) = cluster.submit(plan)
    cluster.end()
    assert "is up to date" in (plan / "logs" / f"{merge}.log").read_text()


def test_a_task_that_is_killed_is_made_by_the_script_again(cluster, expected):
    cluster.slow(True)
    plan = cluster.plan(FIXTURES / "digits_mlp", 4)
    array, merge = cluster.submit(plan)
    cluster.kill(2)
    cluster.slow(False)
    cluster.end()
    assert cluster.task(array, 2)["JobState"] == "FAILED"
    said = (plan / "logs" / f"{merge}.log").read_text()
    assert "part 2 is not there" in said and "1 of 4 parts are missing" in said
    assert table(cluster) is None
    cluster.submit(plan)
    cluster.end()
    assert table(cluster) == expected


def test_a_task_that_is_requeued_is_made(cluster, expected):
    cluster.slow(True)
    plan = cluster.plan(FIXTURES / "digits_mlp", 4)
    array, _ = cluster.submit(plan)
    cluster.wait(lambda: cluster.task(array, 1)["JobState"] == "RUNNING")
    cluster.run("scontrol", "requeue", f"{array}_1")
    cluster.slow(False)
    cluster.end()
    assert cluster.task(array, 1)["Restarts"] == "1"
    assert table(cluster) == expected


def test_a_merge_that_is_too_early_says_what_is_missing(cluster, expected):
    plan = cluster.plan(FIXTURES / "digits_mlp", 4)
    early = subprocess.run([BINARY, "merge", plan, "--wait", "1"], capture_output=True, text=True)
    assert early.returncode == 1
    for part in range(4):
        assert f"part {part} is not there: lpa partial --plan " in early.stderr
    cluster.submit(plan)
    cluster.end()
    assert table(cluster) == expected


def test_tasks_that_others_preempt_are_made(cluster, expected):
    cluster.slow(True)
    plan = cluster.plan(FIXTURES / "digits_mlp", 6, "--partition", "main")
    array, _ = cluster.submit(plan)
    # There are four processors; the urgent job takes all.
    cluster.wait(lambda: [cluster.who(i)[1] for i in range(4)].count(None) == 0)
    urgent = cluster.run("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2",
                         "--output=/dev/null", "--wrap", f"touch '{cluster.directory}/urgent'").strip()
    cluster.wait((cluster.directory / "urgent").exists)
    cluster.slow(False)
    cluster.end()
    assert [cluster.task(array, i)["Restarts"] for i in range(6)] == ["1"] * 4 + ["0"] * 2
    assert "JobState=COMPLETED" in cluster.run("scontrol", "-o", "show", "job", urgent)
    assert table(cluster) == expected


def test_a_node_that_is_lost(tmp_path, expected):
    """Its daemon and all processes of its tasks are killed at once, as by a loss of power."""
    with started(SLURM_TEST_LOST="10") as env:
        cluster = Cluster(env, tmp_path)
        cluster.slow(True)
        plan = cluster.plan(FIXTURES / "digits_mlp", 4)
        array, _ = cluster.submit(plan)
        cluster.wait(lambda: all(cluster.who(i)[1] for i in range(4)))
        lost = [i for i in range(4) if cluster.who(i)[1] == "n2"]
        assert len(lost) == 2
        daemon = Path(env["SLURM_CONF"]).parent / "slurmd.n2.pid"
        os.kill(int(daemon.read_text()), signal.SIGKILL)
        for i in lost:
            script = cluster.who(i)[0][0]
            # slurmstepd would report the end.
            os.kill(int(Path(f"/proc/{script}/stat").read_text().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
            cluster.kill(i)
        cluster.wait(lambda: "down" in cluster.run("sinfo", "-h", "-N", "-n", "n2", "-o", "%T"))
        cluster.slow(False)
        cluster.end()
        assert [cluster.task(array, i)["Restarts"] for i in range(4)] == [str(int(i in lost)) for i in range(4)]
        assert {cluster.who(i)[1] for i in range(4)} == {"n1"}
        assert table(cluster) == expected


def test_what_is_being_made_is_not_submitted_again(cluster, expected):
    cluster.slow(True)
    plan = cluster.plan(FIXTURES / "digits_mlp", 6)
    array, _ = cluster.submit(plan)
    assert len(cluster.submit(plan)) == 1
    # One that was killed is, while the others run or wait.
    cluster.kill(1)
    cluster.wait(lambda: cluster.task(array, 1)["JobState"] == "FAILED")
    said = cluster.run("sh", plan / "submit.sh")
    again, last = re.findall(r"job (\d+)", said)
    assert f"job {again}, tasks 1\n" in said
    assert f"afterany:{array}_*" in cluster.run("squeue", "-h", "-j", last, "-o", "%E")
    assert f"afterany:{again}_*" in cluster.run("squeue", "-h", "-j", last, "-o", "%E")
    cluster.slow(False)
    cluster.end()
    assert table(cluster) == expected
    assert len(list((plan / "logs").glob("*_*.log"))) == 7
    assert not [p for p in plan.iterdir() if p.name.startswith(".")]


def test_more_parts_than_an_array_has_tasks(cluster):
    run = cluster.directory / "run"
    cluster.run(BINARY, "simulate", "random-walk", run, "--dim", 20, "--steps", 1100)
    plan = cluster.plan(run, 1100)
    # All but the last few are there.
    line = f"seq 0 1095 | xargs -P 2 -I{{}} {BINARY} partial --quiet --threads 1 --plan \"{plan}\" --part {{}}"
    subprocess.run(line, shell=True, check=True)
    assert "tasks 548-549" in cluster.run("sh", plan / "submit.sh")
    cluster.end()
    cluster.run(BINARY, "analyze", run, "--out", cluster.directory / "one.parquet")
    assert table(cluster) == (cluster.directory / "one.parquet").read_bytes()


def test_each_node_makes_the_parts_of_its_own_shards(cluster):
    run, of_map = cluster.directory / "run", cluster.directory / "map"
    record_by_two_ranks(run)
    of_map.write_text("n2 0\nn1 1\n")
    cluster.slow(True)
    plan = cluster.plan(run, 4, question=("--by-node", of_map))
    said = cluster.run("sh", plan / "submit.sh")
    arrays = re.findall(r"parts: job (\d+), tasks 0-1\n", said)
    assert len(arrays) == 2
    # Both are being made, and none is submitted again.
    assert "parts: job" not in cluster.run("sh", plan / "submit.sh")
    cluster.slow(False)
    cluster.end()
    nodes = [cluster.task(array, i)["NodeList"] for array in arrays for i in range(2)]
    assert nodes == ["n2", "n2", "n1", "n1"]
    cluster.run(BINARY, "analyze", run, "--out", cluster.directory / "one.parquet")
    assert table(cluster) == (cluster.directory / "one.parquet").read_bytes()
