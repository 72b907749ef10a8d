#!/usr/bin/env bash
# The whole method as four jobs, each starting when the one before it has succeeded. Run it again: every stage resumes, or
# says that it is done.
#   scripts/slurm/pipeline.sh experiment=toybox_demo
#   TASKS=32 NODES=4 scripts/slurm/pipeline.sh experiment=paper data_gen.num_grids=1000 infer.adapter=outputs/paper/train
# An override with a stage's name before it (data_gen, curate, train, infer) goes to that stage. From the environment: TASKS
# of each array (8), NODES for training (1), OPTIONS of every sbatch ("--account=a --partition=gpu"; where there are no
# GPUs, "--gpus-per-node=0 --cpus-per-task=1").
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/stages.sh
experiment=${1:-experiment=toybox_demo}
experiment=${experiment#experiment=}
take_overrides "${@:2}"
prefix="dsd-${experiment//\//-}"
names=$prefix-data_gen,$prefix-curate,$prefix-train,$prefix-infer
waiting=$(squeue --me --noheader --name="$names")
if [[ $waiting ]]; then  # two jobs of one stage would do the same work in the same folder
  echo "pipeline.sh: jobs of this experiment are still in the queue; wait, or scancel --name=$names" >&2
  echo "$waiting" >&2
  exit 1
fi
mkdir -p outputs/slurm

jobs=()
submit() {  # submit STAGE CONFIG OPTION...: a job that waits for the stage before it
  local stage=$1 config=$2 after=() overrides job
  if ((${#jobs[@]})); then after=("--dependency=afterok:${jobs[-1]}" --kill-on-invalid-dep=yes); fi
  overrides_of "$stage"
  job=$(sbatch --parsable --job-name="$prefix-$stage" "${after[@]}" "${options[@]}" "${@:3}" "scripts/slurm/$stage.sbatch" \
    "experiment=$experiment/$config" "${overrides[@]}")
  jobs+=("${job%%;*}")                                # a federation's sbatch adds ;cluster
  echo "$stage: job ${jobs[-1]}"
}
tasks=${TASKS:-8}
read -ra options <<< "${OPTIONS:-}"
submit data_gen data_gen "--array=0-$((tasks - 1))"   # prompts -> grids
submit curate   curation "--array=0-$((tasks - 1))"   # grids -> pairs
submit train    train    "--nodes=${NODES:-1}"        # pairs -> adapter
submit infer    infer    "--array=0-$((tasks - 1))"   # adapter -> images

all=$(IFS=,; echo "${jobs[*]}")
cat <<END
Follow:  squeue --me --jobs=$all
         tail -F outputs/slurm/$prefix-*.log
Cancel:  scancel ${all//,/ }
END
