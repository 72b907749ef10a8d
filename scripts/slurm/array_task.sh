# One task of an array job, sourced by data_gen, curate and infer.sbatch: `source array_task.sh STAGE OVERRIDES...`.
#
# A stage takes its part of the work from SLURM_ARRAY_TASK_ID and _COUNT. A shard appears under its name before its worker
# looks for what is missing, so of workers that finish together one at least misses nothing; it writes the manifest, and
# if two do, they write the same. A stage may be killed at any moment, so all that is to do here is to queue again.
set -euo pipefail
if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
stage=$1
shift

# By its place in the array: the id of an array's last task is also that of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
again() {
  echo "$stage: job $job is queued again, and goes on where it was"
  scontrol requeue "$job"
  exit 0
}

cancelled=
trap again USR1              # the time is up soon (--signal); or preempted, with PreemptParameters=send_user_signal
trap 'cancelled=yes' TERM    # scancel
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # else srun binds the stage to one (Slurm 22.05 on)
srun python -m "dsd.$stage" "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done  # a trap interrupts `wait`
wait "$step" && code=0 || code=$?
# Preempted, with a grace time: the stage alone gets SIGTERM, and a script that ends now counts as failed.
if [[ $code == 143 && ! $cancelled ]]; then again; fi
exit "$code"
