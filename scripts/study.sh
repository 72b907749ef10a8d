#!/usr/bin/env bash
# What curation and the teacher's own pairs are worth: students on curated, uncurated and true pairs at equal steps, three
# seeds each, against a text-only teacher and a copy. Hours on two cores; run it again, and it goes on where it was.
#   scripts/study.sh train.num_steps=3000     an override with a stage's name before it goes to that stage
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/stages.sh
side_by_side
take_overrides "$@"
study() { stage "$1" "experiment=toybox_study/${1/curate/curation}" "${@:2}"; }
out=outputs/study arms=(curated uncurated oracle) seeds=(0 1 2)
any=(selection.require_same=false selection.minimum.confidence=null)   # whatever the judge says of a pair

study data_gen
study data_gen teacher=oracle output_dir=$out/oracle_grids
study curate
study curate "${any[@]}" output_dir=$out/uncurated
study curate "${any[@]}" ++selection.minimum.similarity=0.9 output_dir=$out/similarity
study curate grids=$out/oracle_grids verdicts_dir=$out/oracle_verdicts output_dir=$out/oracle

student() {  # student ARM SEED: train it, and let it draw
  study train "pairs=$out/$1" "output_dir=$out/train/$1/$2" "seed=$2"
  study infer "adapter=$out/train/$1/$2" "output_dir=$out/results/$1/$2"
}
study infer method=text_only
study infer method=copy_paste
for seed in "${seeds[@]}"; do
  for arm in "${arms[@]}"; do start student "$arm" "$seed"; done
done
finish
study evaluate
