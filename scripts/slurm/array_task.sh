# shellcheck shell=bash
# Run one task of an array job; sourced by data_gen, curate and infer.sbatch: `source array_task.sh STAGE OVERRIDE...`.
#
# A stage takes its part of the work from SLURM_ARRAY_TASK_ID and _COUNT, and the task that ends last writes the manifest.
# A stage may be killed at any moment and goes on where it was; this script only has to queue it again.
set -euo pipefail
if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
stage=$1
shift

# Named by its place in the array: the job id of an array's last task is also the id of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
again() {
  echo "$stage: job $job is queued again, and goes on where it was"
  scontrol requeue "$job"
  exit 0
}

cancelled=
trap again USR1              # the time is nearly up (--signal), or preempted with PreemptParameters=send_user_signal
trap 'cancelled=yes' TERM    # scancel
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # otherwise srun gives the stage one CPU (since Slurm 22.05)
srun python -m "dsd.$stage" "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done  # a trap interrupts `wait`
wait "$step" && code=0 || code=$?
# Preempted with a grace time: only the stage gets SIGTERM, and this script would count as failed.
if [[ $code == 143 && ! $cancelled ]]; then again; fi
exit "$code"
