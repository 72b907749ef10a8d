#!/usr/bin/env bash
# The paper's choices in miniature: students of the small FLUX that differ in one setting and in nothing else, three seeds
# each, 600 steps on the study's curated pairs. More than an hour on two cores; run again, and it goes on where it was.
#   scripts/claims.sh                          all of them; scripts/study.sh has curated against uncurated pairs
#   scripts/claims.sh lora_rank sfo            some of them
#   scripts/claims.sh sfo train.num_steps=2000  overrides with a stage's name before them go to that stage
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(env -u OMP_NUM_THREADS nproc)}   # nproc would count OMP_NUM_THREADS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}    # students are trained side by side
out=outputs/claims seeds=(0 1 2)

declare -A arms=(  # of each claim, the baseline aside
  [lora_rank]="rank_2 rank_128"
  [first_frame_loss]="target_loss_alone"
  [condition_dropout]="no_dropout guided no_dropout_guided"
  [sfo]="sfo more_steps"
)
declare -A training=(  # what differs from the baseline, which has rank 32, both panels' loss and a dropout of .1
  [rank_2]="lora.rank=2 lora.alpha=2"
  [rank_128]="lora.rank=128 lora.alpha=128"
  [target_loss_alone]="reference_loss_weight=0"
  [no_dropout]="condition_dropout=0"
)
declare -A student_of=([guided]=baseline [no_dropout_guided]=no_dropout)   # drawn with image guidance; no training

claims=() given=()
for word in "$@"; do
  if [[ $word == *=* ]]; then given+=("$word")
  elif [[ -v arms[$word] ]]; then claims+=("$word")
  else echo "claims: $word is none of them; choose from: ${!arms[*]}" >&2; exit 2; fi
done
report=$(IFS=-; echo "${claims[*]:-report}")
((${#claims[@]})) || claims=(lora_rank first_frame_loss condition_dropout sfo)

stage() {  # stage STAGE OVERRIDES...: one command, with what was given for its stage
  local name=${1//-/_} extra=() override
  for override in "${given[@]}"; do
    if [[ $override == "$name."* ]]; then extra+=("${override#"$name."}"); fi
  done
  "dsd-$1" "${@:2}" "${extra[@]}"
}
draw() {  # draw ADAPTER RESULTS OVERRIDES...: the same held-out subjects for every arm
  stage infer experiment=toybox_study/infer jobs.num_subjects=128 jobs.contexts_per_subject=1 "adapter=$1" "output_dir=$2" "${@:3}"
}
student() {  # student ARM SEED: trained if it has to be, and asked for pictures
  local arm=$1 seed=$2 from=$out/train/${student_of[$1]:-$1}/$2 base=$out/train/baseline/$2 guidance=1.0 objective=sfo
  case $arm in
    guided | no_dropout_guided) guidance=1.5 ;;
    negatives)
      dsd-infer experiment=sfo/infer "adapter=$base" jobs.path=outputs/study/curated jobs.num=512 batch_size=32 \
        "output_dir=$out/negatives/$seed"
      return ;;
    sfo | more_steps)  # the same steps on the same pairs, of SFO's loss or of the first stage's
      [[ $arm == sfo ]] || objective=flow_matching
      stage train experiment=sfo/train "objective=$objective" pairs=outputs/study/curated \
        "data.negatives=$out/negatives/$seed" "init_adapter=$base" "cache_dir=$out/cache" "output_dir=$from" "seed=$seed" ;;
    *)
      # shellcheck disable=SC2086  # several overrides
      stage train experiment=toybox_study/train num_steps=600 "cache_dir=$out/cache" \
        "output_dir=$from" "seed=$seed" ${training[$arm]:-} ;;
  esac
  draw "$from" "$out/results/$arm/$seed" "settings.image_guidance_scale=$guidance"
}
each() {  # each ARM...: every seed, JOBS at a time
  local arm seed failed=0
  for seed in "${seeds[@]}"; do
    for arm in "$@"; do
      student "$arm" "$seed" &
      while (($(jobs -rp | wc -l) >= jobs)); do wait -n || failed=1; done
    done
  done
  while (($(jobs -rp | wc -l))); do wait -n || failed=1; done
  return "$failed"
}

stage data-gen experiment=toybox_study/data_gen
stage curate experiment=toybox_study/curation
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
