#!/usr/bin/env bash
# The paper's choices in miniature: students of the small FLUX that differ in one setting and in nothing else, three seeds
# each, 600 steps on the study's curated pairs. More than an hour on two cores; run it again, and it goes on where it was.
#   scripts/claims.sh                          all of them; scripts/study.sh has curated against uncurated pairs
#   scripts/claims.sh lora_rank sfo            some of them
#   scripts/claims.sh sfo train.num_steps=2000  an override with a stage's name before it goes to that stage
#   PAIRS=outputs/demo/pairs scripts/claims.sh references   on other pairs than the study's
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/stages.sh
side_by_side
out=outputs/claims seeds=(0 1 2) pairs=${PAIRS:-outputs/study/curated}

declare -A arms=(  # the arms of each claim beside the baseline
  [lora_rank]="rank_2 rank_128"
  [first_frame_loss]="target_loss_alone"
  [condition_dropout]="no_dropout guided no_dropout_guided"
  [sfo]="sfo more_steps"
  [references]="target_loss_alone column kontext diagonal cached_column cached_kontext cached_diagonal"
)
declare -A training=(  # how an arm's training differs from the baseline's (canvas, rank 32, both panels' loss, dropout 0.1)
  [rank_2]="lora.rank=2"
  [rank_128]="lora.rank=128"
  [target_loss_alone]="reference_loss_weight=0"
  [no_dropout]="condition_dropout=0"
  [column]="student=tokens student.attention=full student.positions=column"
  [kontext]="student=tokens student.attention=full student.positions=kontext"
  [diagonal]="student=tokens student.attention=full student.positions=diagonal"
  [cached_column]="student=tokens student.attention=cached student.positions=column"
  [cached_kontext]="student=tokens student.attention=cached student.positions=kontext"
  [cached_diagonal]="student=tokens student.attention=cached student.positions=diagonal"
)
declare -A student_of=([guided]=baseline [no_dropout_guided]=no_dropout)   # these draw with another arm's student

claims=() rest=()
for word in "$@"; do
  if [[ $word == *=* ]]; then rest+=("$word")
  elif [[ -v arms[$word] ]]; then claims+=("$word")
  else echo "claims.sh: $word is no claim; choose from: ${!arms[*]}" >&2; exit 2; fi
done
take_overrides "${rest[@]}"
report=$(IFS=-; echo "${claims[*]:-report}")
((${#claims[@]})) || claims=(lora_rank first_frame_loss condition_dropout sfo)

draw() {  # draw ADAPTER RESULTS OVERRIDE...: the same held-out subjects for every arm
  stage infer experiment=toybox_study/infer jobs.num_subjects=128 jobs.contexts_per_subject=1 "adapter=$1" \
    "output_dir=$2" "${@:3}"
}
negatives() {  # negatives SEED: what SFO learns to avoid, drawn by the baseline
  dsd-infer experiment=toybox_sfo/infer "adapter=$out/train/baseline/$1" "jobs.path=$pairs" jobs.num=512 \
    batch_size=32 "output_dir=$out/negatives/$1"
}
second_stage() {  # second_stage OBJECTIVE SEED FOLDER: the same steps on the same pairs, of one loss or the other
  stage train experiment=toybox_sfo/train student=canvas "objective=$1" "pairs=$pairs" "data.negatives=$out/negatives/$2" \
    "init_adapter=$out/train/baseline/$2" "cache_dir=$out/cache" "output_dir=$3" "seed=$2"
}
student() {  # student ARM SEED: train it if it has a student of its own, and let it draw
  local arm=$1 seed=$2 from=$out/train/${student_of[$1]:-$1}/$2 guidance=1.0
  case $arm in
    guided | no_dropout_guided) guidance=1.5 ;;
    sfo) second_stage sfo "$seed" "$from" ;;
    more_steps) second_stage flow_matching "$seed" "$from" ;;
    *)
      # shellcheck disable=SC2086  # several overrides
      stage train experiment=toybox_study/train student=canvas num_steps=600 "pairs=$pairs" "cache_dir=$out/cache" "output_dir=$from" "seed=$seed" \
        ${training[$arm]:-} ;;
  esac
  draw "$from" "$out/results/$arm/$seed" "settings.image_guidance_scale=$guidance"
}
each() {  # each ARM...: every seed of every arm; `negatives` makes those instead
  local arm seed
  for seed in "${seeds[@]}"; do
    for arm in "$@"; do
      if [[ $arm == negatives ]]; then start negatives "$seed"; else start student "$arm" "$seed"; fi
    done
  done
  finish
}

if [[ ! -v PAIRS ]]; then
  stage data_gen experiment=toybox_study/data_gen
  stage curate experiment=toybox_study/curation
fi
firsts=(baseline) seconds=() thirds=() compared=()   # each may begin from what those before it made
for claim in "${claims[@]}"; do
  for arm in ${arms[$claim]}; do
    compared+=("$arm")
    if [[ $claim == sfo ]]; then thirds+=("$arm")
    elif [[ -v student_of[$arm] ]]; then seconds+=("$arm")
    else firsts+=("$arm"); fi
  done
done
((${#thirds[@]} == 0)) || seconds+=(negatives)
each "${firsts[@]}"
each "${seconds[@]}"
each "${thirds[@]}"
results=
for arm in baseline "${compared[@]}"; do
  for seed in "${seeds[@]}"; do results+="$arm/$seed: $out/results/$arm/$seed, "; done
done
stage evaluate "output_dir=$out/$report" baseline=baseline "results={${results%, }}"
