#!/usr/bin/env bash
# Relighting on the toybox, from grids to report: the student moves nothing and draws the light that is asked for. Half an hour
# on two cores; run it again, and it goes on where it was.
#   scripts/relight.sh                        the student, a copy, the base told the light alone, and SDEdit at every strength
#   scripts/relight.sh ablation               students that differ in one setting, three seeds each
#   scripts/relight.sh both                   one student for subjects and lights against the specialist of each
#   scripts/relight.sh train.num_steps=800    an override with a stage's name before it goes to that stage
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/stages.sh
out=outputs/relight seeds=(0 1 2) what=relight
case ${1:-} in ablation | both) what=$1; shift ;; esac
take_overrides "$@"
relight() { stage "$1" "experiment=relight/${1/curate/curation}" "${@:2}"; }
held_out=(jobs=toybox jobs.relation=relight)   # the light alone is named; SDEdit needs the whole picture described

draw() {  # draw NAME OVERRIDE...: the held-out pictures in another light
  relight infer "${held_out[@]}" "output_dir=$out/$1" "${@:2}"
}
student() {  # student ARM SEED OVERRIDE...: train it, and let it draw
  local from=$out/train/$1/$2
  relight train "output_dir=$from" "cache_dir=$out/cache" "seed=$2" "${@:3}"
  draw "results/$1/$2" "adapter=$from"
}
each() {  # each ARM OVERRIDE...: every seed of an arm
  local seed
  for seed in "${seeds[@]}"; do start student "$1" "$seed" "${@:2}"; done
}
results() {  # results ARM...: the folders of every seed, as dsd-evaluate takes them
  local arm seed found=
  for arm in "$@"; do
    for seed in "${seeds[@]}"; do found+="$arm/$seed: $out/results/$arm/$seed, "; done
  done
  echo "{${found%, }}"
}
compare() {  # compare NAME RESULTS: arms against the student
  stage evaluate "measure=[toybox_relight,drift]" baseline=student "output_dir=$out/$1" "results=$2"
}

relight data_gen
relight curate
side_by_side
case $what in
  relight)
    each student
    start draw results/copy_paste/0 method=copy_paste
    start draw results/text_only/0 method=text_only
    for strength in 0.2 0.4 0.6 0.8; do
      start draw "results/sdedit_$strength/0" jobs.described=true method=sdedit "method.strength=$strength"
    done
    subject=null
    if [[ -f outputs/demo/train/adapter.safetensors ]]; then   # what `make demo` trained
      subject=$out/results/subject/0
      start draw results/subject/0 adapter=outputs/demo/train
    fi
    finish
    relight evaluate "results={subject/0: $subject}" ;;
  ablation)
    each student
    each shared student.positions=shared
    each dropout condition_dropout=0.1
    each canvas student=canvas
    each canvas_target_alone student=canvas reference_loss_weight=0
    each full student.attention=full
    each described instruction_ratio=0.5
    each column student.positions=column
    finish
    compare ablation "$(results student shared dropout canvas canvas_target_alone full described column)" ;;
  both)  # equal steps; needs the demo's pairs
    subjects() { stage infer experiment=toybox_demo/infer "adapter=$out/train/$1/$2" "output_dir=$out/subjects/$1/$2"; }
    each student
    each both data=mixed "data.paths=[outputs/demo/pairs, $out/pairs]" "data.instructed=[false, true]" instruction_ratio=0.2
    each subjects_only pairs=outputs/demo/pairs instruction_ratio=0.2
    finish
    for seed in "${seeds[@]}"; do for arm in both subjects_only; do start subjects "$arm" "$seed"; done; done
    finish
    compare both "$(results student both subjects_only)"
    found=; for arm in subjects_only both; do for seed in "${seeds[@]}"; do found+="$arm/$seed: $out/subjects/$arm/$seed, "; done; done
    stage evaluate "output_dir=$out/both_subjects" baseline=subjects_only "results={${found%, }}" ;;
esac
