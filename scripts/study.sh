#!/usr/bin/env bash
# What curation and the teacher's own pairs are worth: students on curated, uncurated and true pairs at equal steps, three
# seeds each, against a text-only teacher and a copy. Hours on two cores; run again, and it goes on where it was.
#   scripts/study.sh train.num_steps=3000     overrides with a stage's name before them go to that stage
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(env -u OMP_NUM_THREADS nproc)}   # nproc would count OMP_NUM_THREADS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}    # students are trained side by side
study() {  # study STAGE OVERRIDES...: one command of the study, with what was given for its stage
  local stage=$1 name=${1//-/_} extra=(); shift
  for override in "${given[@]}"; do
    if [[ $override == "$name."* ]]; then extra+=("${override#"$name."}"); fi
  done
  "dsd-$stage" "experiment=toybox_study/${name/curate/curation}" "$@" "${extra[@]}"
}
given=("$@") out=outputs/study arms=(curated uncurated oracle) seeds=(0 1 2)

study data-gen
study data-gen teacher=oracle output_dir=$out/oracle_grids
study curate
study curate selection=all output_dir=$out/uncurated
study curate selection=similarity output_dir=$out/similarity
study curate grids=$out/oracle_grids verdicts_dir=$out/oracle_verdicts output_dir=$out/oracle

student() {  # student ARM SEED: trained, and asked for pictures
  study train "pairs=$out/$1" "output_dir=$out/train/$1/$2" "seed=$2"
  study infer "adapter=$out/train/$1/$2" "output_dir=$out/results/$1/$2"
}
study infer method=text_only
study infer method=copy_paste
for seed in "${seeds[@]}"; do
  for arm in "${arms[@]}"; do
    student "$arm" "$seed" &
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  done
done
while (($(jobs -rp | wc -l))); do wait -n; done
study evaluate
