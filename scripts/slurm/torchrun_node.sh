#!/usr/bin/env bash
# Run one node's torchrun; train.sbatch starts it through srun. On SIGTERM or SIGUSR1 the ranks save and leave by
# themselves, however long that takes.
#
# torchrun alone does not allow that: SIGUSR1 kills it, and after SIGTERM it kills its ranks within 30 s. Slurm signals either
# only the first process of a task (proctrack/cgroup) or all of them (proctrack/linuxproc). So torchrun ignores both signals
# here, and this shell passes them on to the ranks; a rank that gets a signal twice stops once.
set -uo pipefail
trap '' USR1 TERM                                   # children inherit this; the ranks then set handlers
export PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT  # torchrun's default includes SIGTERM (older ones cannot choose)

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
  while pkill -USR1 --parent "$launcher"; do sleep 5; done  # again, for ranks that were loading and had no handler yet
}
trap pass_on USR1 TERM
while true; do
  wait "$launcher"
  code=$?
  if [[ ! $told ]]; then exit "$code"; fi
  told=                                             # the trap interrupted `wait`, which then returned no exit code
done
