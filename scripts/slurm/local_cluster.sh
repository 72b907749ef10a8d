#!/usr/bin/env bash
# Start a Slurm of this one machine, to try the job scripts on: Debian's packages, with configuration and state in one
# temporary folder and nothing in /etc. Needs root, since slurmd starts jobs in their users' names.
#   eval "$(scripts/slurm/local_cluster.sh start)"    starts what is not running and sets SLURM_CONF and PATH here
#   scripts/slurm/local_cluster.sh status             daemons, partitions, queue
#   scripts/slurm/local_cluster.sh stop               cancels all jobs and removes the folder
# DSD_SLURM_DIR is the folder (/tmp/dsd-slurm), DSD_SLURM_PORT the first of two ports (6937), DSD_SLURM_CPUS the number of CPUs
# that it claims (4, however many there are), DSD_SLURM_GRACE the seconds that a preempted job has (60). Partition `low` is
# the default; jobs in `high` preempt jobs in `low`.
set -euo pipefail
folder=${DSD_SLURM_DIR:-/tmp/dsd-slurm} port=${DSD_SLURM_PORT:-6937}
export SLURM_CONF=$folder/slurm.conf PATH=$PATH:/usr/sbin:/sbin

fail() { echo "local_cluster.sh: $1" >&2; exit 1; }

check() {
  ((EUID == 0)) || fail "needs root: slurmd starts jobs in their users' names"
  missing=()
  for package in slurmctld slurmd sinfo:slurm-client munged:munge; do
    command -v "${package%:*}" >/dev/null || missing+=("${package#*:}")
  done
  if ((${#missing[@]})); then fail "missing; install with: apt-get install ${missing[*]}"; fi
}

running() {  # running DAEMON: whether the process whose id it wrote is alive
  [[ -s $folder/$1.pid ]] && kill -0 "$(<"$folder/$1.pid")" 2>/dev/null
}

configure() {
  mkdir -p "$folder"/{state,spool,log,munge}
  chmod 755 "$folder" "$folder/munge"
  [[ -s $folder/key ]] || (umask 077 && head -c 128 /dev/urandom > "$folder/key")
  local node; node=$(hostname -s)
  cat > "$SLURM_CONF" <<EOF
ClusterName=local
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (120 s by default).
AuthInfo=socket=$folder/munge/socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
# Neither cgroups nor a database are needed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MinJobAge=3600
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Claims more CPUs and memory than there are, so that several small tasks run side by side.
NodeName=$node NodeAddr=127.0.0.1 CPUs=${DSD_SLURM_CPUS:-4} RealMemory=1000000 State=UNKNOWN
PartitionName=low Nodes=$node Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=${DSD_SLURM_GRACE:-60}
PartitionName=high Nodes=$node MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
EOF
}

# submitit asks sacct for the state of its jobs, which needs a database; scontrol remembers them for an hour (MinJobAge).
provide_sacct() {
  mkdir -p "$folder/bin"
  cat > "$folder/bin/sacct" <<'EOF'
#!/usr/bin/env bash
# sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID]..., as submitit calls it
echo "JobID|State|NodeList"
while (($#)); do
  if [[ $1 == -j ]]; then scontrol show job --oneliner "$2" 2>/dev/null; shift; fi
  shift
done | while read -r line; do
  value() { [[ " $line" =~ \ $1=([^ ]*) ]] && echo "${BASH_REMATCH[1]}"; }
  task=$(value ArrayTaskId) || task=
  [[ $task ]] && id=$(value ArrayJobId)_$task || id=$(value JobId)
  if [[ $task == *-* || $task == *,* ]]; then id=${id%%_*}_[$task]; fi  # one line for all that have not started
  echo "$id|$(value JobState)|$(value NodeList)"
done
EOF
  chmod +x "$folder/bin/sacct"
}

start() {
  check
  configure
  provide_sacct
  if ! running munged; then
    munged --force --key-file "$folder/key" --socket "$folder/munge/socket" --pid-file "$folder/munged.pid" \
      --seed-file "$folder/munge/seed" --log-file "$folder/log/munged.log" >&2
  fi
  running slurmctld || slurmctld >&2
  running slurmd || slurmd >&2
  for _ in {1..60}; do
    if [[ $(sinfo --noheader --format=%T --partition=low 2>/dev/null) =~ ^(idle|mixed|allocated) ]]; then
      echo "local_cluster.sh: ready; logs in $folder/log" >&2
      echo "export SLURM_CONF=$SLURM_CONF PATH=$folder/bin:\$PATH"
      return
    fi
    sleep 0.5
  done
  tail -n 5 "$folder"/log/*.log >&2
  fail "the node did not come up in 30 s; see $folder/log"
}

stop() {
  if running slurmctld; then
    scancel --user=root 2>/dev/null || true
    for _ in {1..20}; do [[ $(squeue --noheader 2>/dev/null) ]] || break; sleep 0.5; done
  fi
  for daemon in slurmd slurmctld munged; do
    if running "$daemon"; then
      pid=$(<"$folder/$daemon.pid")
      kill "$pid"
      for _ in {1..40}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
    fi
  done
  rm -rf "$folder"
  echo "local_cluster.sh: stopped" >&2
}

status() {
  for daemon in munged slurmctld slurmd; do
    running "$daemon" && echo "$daemon: running" || echo "$daemon: not running"
  done
  running slurmctld || exit 1
  sinfo
  squeue
}

case ${1:-} in
  start | stop | status) "$1" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
