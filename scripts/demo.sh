#!/usr/bin/env bash
# The method from end to end, each stage a command that reads what the one before it left. Run it again: every stage
# resumes, or says that it is done.
#   scripts/demo.sh                          the demo, minutes on two cores
#   scripts/demo.sh train.num_steps=2000     an override with a stage's name before it goes to that stage
#   scripts/demo.sh smoke                    the same chain with small sizes, in outputs/smoke
#   MODEL=toybox_flux2 scripts/demo.sh       the same chain on another model of configs/model, in outputs/toybox_flux2
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/stages.sh
# shellcheck disable=SC2016  # Hydra fills in ${method.name}, here and below
small=(
  data_gen.output_dir=outputs/smoke/grids data_gen.num_grids=12 data_gen.rows_per_shard=8
  curate.grids=outputs/smoke/grids curate.output_dir=outputs/smoke/pairs curate.rows_per_shard=8
  train.pairs=outputs/smoke/pairs train.output_dir=outputs/smoke/train train.num_steps=12 train.warmup_steps=2
  train.checkpoint_every=6 train.log_every=4
  infer.adapter=outputs/smoke/train 'infer.output_dir=outputs/smoke/${method.name}' infer.jobs.num_subjects=6
  evaluate.grids=outputs/smoke/grids evaluate.curated=outputs/smoke/pairs evaluate.adapter=outputs/smoke/train
  evaluate.output_dir=outputs/smoke evaluate.results.student=outputs/smoke/student
  evaluate.results.text_only=outputs/smoke/text_only evaluate.results.copy_paste=outputs/smoke/copy_paste
)
if [[ ${1:-} == smoke ]]; then set -- "${small[@]}" "${@:2}"; fi
take_overrides "$@"
elsewhere() {  # elsewhere STAGE: the overrides that take a stage to another model and another folder
  local out=outputs/$MODEL
  case $1 in
    data_gen) echo "model=$MODEL output_dir=$out/grids" ;;
    curate) echo "model=$MODEL grids=$out/grids output_dir=$out/pairs" ;;
    train) echo "model=$MODEL student=tokens pairs=$out/pairs output_dir=$out/train" ;;
    infer) echo "model=$MODEL adapter=$out/train output_dir=$out/\${method.name}" ;;
    evaluate)
      echo "grids=$out/grids curated=$out/pairs adapter=$out/train output_dir=$out results.student=$out/student"
      echo "results.text_only=$out/text_only results.copy_paste=$out/copy_paste" ;;
  esac
}
demo() {
  local there=()
  if [[ -n ${MODEL:-} ]]; then read -r -d '' -a there < <(elsewhere "$1") || true; fi
  stage "$1" "experiment=toybox_demo/${1/curate/curation}" "${@:2}" "${there[@]}"
}
began=$SECONDS

demo data_gen                     # prompts -> grids: the teacher draws one subject in four panels
demo curate                       # grids -> pairs: the judge keeps those that show the same subject
demo train                        # pairs -> adapter: the teacher learns to take a reference
# adapter -> images: subjects that the student has never seen, in new contexts; and two baselines, the teacher told only
# what text can tell, and the reference as it is
demo infer --multirun method=student,text_only,copy_paste 'output_dir=outputs/demo/${method.name}'
demo evaluate                     # how much of each subject was kept, how much of each prompt followed

echo "The whole chain took $((SECONDS - began)) s."
