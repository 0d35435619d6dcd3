#!/bin/bash
# A real Slurm on one machine for tests: munged, slurmctld and two slurmd, all as root, all on loopback, all files in DIR.
#
#   cluster.sh install DIR   install what is missing (Debian), and start nothing
#   cluster.sh start DIR     the same, then start, and wait until both nodes are idle
#   cluster.sh stop  DIR     cancel all jobs, end the daemons that this DIR started; DIR itself stays
#
# DIR/slurm.conf is what SLURM_CONF must name; DIR/env can be sourced. Jobs see nodes n1 and n2 (SLURMD_NODENAME),
# whose hostname is the machine's. Two clusters can run side by side in two folders.
set -euo pipefail

NODES=${SLURM_TEST_NODES:-2}         # slurmd processes
LOST=${SLURM_TEST_LOST:-300}         # seconds after which a node that is not heard of is down
CPUS=${SLURM_TEST_CPUS:-2}           # CPUs that each claims to have, whatever the machine has
PACKAGES="slurmctld slurmd slurm-client munge"

die() { echo "cluster.sh: $*" >&2; exit 1; }
usage() { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 2; }

[ $# -eq 2 ] || usage
action=$1
[ "$(id -u)" = 0 ] || die "must run as root (slurmd starts jobs as their owner)"
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
# A slurmstepd's socket is DIR/spool.n1/n1_JOB.4294967291, and a socket's path has 107 bytes at most.
[ ${#dir} -le 60 ] || die "$dir is too long a path for the daemons' sockets (60 characters at most)"
export SLURM_CONF=$dir/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin

# alive PIDFILE NAME: prints the pid if it still is that daemon (a pid may have been given to another process since).
alive() {
  local pid _ comm state
  pid=$(cat "$1" 2>/dev/null) && read -r _ comm state _ 2>/dev/null <"/proc/$pid/stat" || return 1
  case "$comm" in "($2"*) [ "$state" != Z ] && echo "$pid" ;; *) return 1 ;; esac
}

# end PIDFILE NAME: SIGTERM, after 5 s SIGKILL, to this one process. The file is kept in mind: a daemon removes it before it ends.
end() {
  local pid i
  pid=$(alive "$1" "$2") || return 0
  echo "$pid" >"$1.ending"
  kill "$pid" 2>/dev/null || true
  for ((i = 0; i < 50; i++)); do alive "$1.ending" "$2" >/dev/null || break; sleep 0.1; done
  if alive "$1.ending" "$2" >/dev/null; then kill -KILL "$pid" 2>/dev/null || true; fi
  rm -f "$1.ending" "$1"
}

stop() {
  local i
  if alive "$dir/slurmctld.pid" slurmctld >/dev/null; then
    # slurmstepd and the jobs outlive slurmd, so they go first. KillWait is 2 s.
    squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
    squeue -h -t R,CG,S -o %A 2>/dev/null | sort -u | xargs -r scancel -f -s KILL 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
  fi
  for ((i = 1; i <= NODES; i++)); do end "$dir/slurmd.n$i.pid" slurmd; done
  end "$dir/slurmctld.pid" slurmctld
  end "$dir/munged.pid" munged
}

case $action in stop) stop; exit 0 ;; start | install) ;; *) usage ;; esac

[ "$action" = install ] || ! alive "$dir/slurmctld.pid" slurmctld >/dev/null || die "already running in $dir"

# What is missing is installed; meanwhile no service may start: the packages' own munged, and slurmd with another configuration.
install() {
  local package missing='' policy=/usr/sbin/policy-rc.d made='' failed=''
  for package in $PACKAGES; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=" $package"
  done
  [ -n "$missing" ] || return 0
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; }
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  { apt-get -q update && apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-unsafe-io $missing; } \
    >"$dir/apt.log" 2>&1 || failed=1
  [ -z "$made" ] || rm -f $policy
  [ -z "$failed" ] || { tail -n 20 "$dir/apt.log" >&2; die "could not install$missing"; }
}
install
[ "$action" != install ] || exit 0

# Ports: slurmctld and one for each slurmd, consecutive and free.
for ((base = ${SLURM_TEST_PORT:-26800}; base < 32000; base += 20)); do
  free=1
  for ((i = 0; i <= NODES; i++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$((base + i))") 2>/dev/null && { free=0; break; }
  done
  [ $free = 1 ] && break
done

# NoInAddrAny below makes every daemon listen on what the machine's host name resolves to, whatever NodeAddr says. That is
# 127.0.0.1 or Debian's 127.0.1.1 where /etc/hosts names the machine; elsewhere the daemons get a host name of their own.
host=$(uname -n)
host=${host%%.*}
address=$(getent ahostsv4 "$host" | awk 'NR == 1 { print $1 }') || true
here=()
case "$address" in
  127.*) ;;
  *) [ -n "$(getent ahostsv4 localhost)" ] || die "neither $host nor localhost resolves (no /etc/hosts?)"
    host=localhost address=127.0.0.1 here=(unshare --uts sh -c 'echo localhost >/proc/sys/kernel/hostname; exec "$@"' sh) ;;
esac

cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($address)
SlurmctldPort=$base
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=$address Port=[$((base + 1))-$((base + NODES))] CPUs=$CPUS RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 PriorityTier=1
# Jobs in this partition preempt those in main, which are requeued.
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

# Without these two, the daemons (and srun) listen on all addresses.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits (120 s by default); less than 5 is "invalid" and means 120.
AuthInfo=socket=$dir/munge.socket,cred_expire=5

SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log

# No cgroups, so no systemd; then nothing binds a job to its CPUs, and nproc shows all of the machine's.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
# No slurmdbd: sacct says "Slurm accounting storage is disabled". scontrol show job works for MinJobAge seconds.
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobcomp.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=$LOST
ReturnToService=2
MinJobAge=3600
KillWait=2
# The main scheduler otherwise looks every 60 s for jobs that became eligible by time, as requeued ones do.
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
CONF

# slurmd loads a cgroup plugin even if nothing uses one, and will not start where that fails (no mount, or version 2 without systemd).
plugin=disabled
if dpkg --compare-versions "$(slurmd -V | awk '{ print $2 }')" lt 23.11; then plugin=cgroup/v1; fi
printf 'CgroupPlugin=%s\n' "$plugin" >"$dir/cgroup.conf"

chmod go+x "$dir"
mkdir -p "$dir/state"
for ((i = 1; i <= NODES; i++)); do mkdir -p "$dir/spool.n$i"; done
[ -s "$dir/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$dir/munge.key")
printf 'export SLURM_CONF=%q\nexport MUNGE_SOCKET=%q\n' "$dir/slurm.conf" "$dir/munge.socket" >"$dir/env"

trap '[ $? = 0 ] || stop' EXIT
# --force: a folder above DIR that others may not enter (mktemp -d, pytest) is only warned about.
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.log"
"${here[@]}" slurmctld
for ((i = 1; i <= NODES; i++)); do "${here[@]}" slurmd -N "n$i"; done

for ((i = 0; i < 300; i++)); do
  [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" = "$NODES" ] && { echo "SLURM_CONF=$SLURM_CONF"; exit 0; }
  sleep 0.1
done
sinfo -N -l >&2 || true
tail -n 20 "$dir/slurmctld.log" "$dir"/slurmd.n1.log >&2
die "the nodes did not become idle in 30 s"
