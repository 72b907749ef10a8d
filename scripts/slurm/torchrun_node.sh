#!/usr/bin/env bash
# One node's torchrun, started by train.sbatch through srun. What is special about it: told to stop by SIGTERM or SIGUSR1,
# its ranks save and leave by themselves, however long that takes.
#
# torchrun does not do that: SIGUSR1 kills it, and after SIGTERM it kills its ranks within 30 s. Nor does Slurm, which
# signals either the first process of a task alone (proctrack/cgroup) or all of its processes (proctrack/linuxproc). So
# torchrun ignores both signals here and this shell passes them on to its ranks; a rank that hears of it twice does not mind.
set -uo pipefail
trap '' USR1 TERM                                   # a child starts with what is ignored here; ranks then set handlers
export PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT  # torchrun's default has SIGTERM as well (older ones have no choice)

torchrun=(
  python -m torch.distributed.run
  --nnodes="${NUM_NODES:-1}"
  --nproc_per_node="${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
  --rdzv_id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
  --rdzv_backend=c10d
  --rdzv_endpoint="$HEAD_NODE:$RENDEZVOUS_PORT"
)
"${torchrun[@]}" -m dsd.train "$@" &
launcher=$!

told=
pass_on() {
  told=yes
  while pkill -USR1 --parent "$launcher"; do sleep 5; done  # again, for ranks that were still loading and had no handler
}
trap pass_on USR1 TERM
while true; do
  wait "$launcher"
  code=$?
  if [[ ! $told ]]; then exit "$code"; fi
  told=                                             # the trap interrupted `wait`; what it returned was no exit code
done
