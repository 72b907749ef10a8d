# shellcheck shell=bash
# Run stages and jobs side by side; sourced by demo.sh, study.sh, claims.sh and slurm/pipeline.sh.
#
# An override with a stage's name before it goes to that stage: train.num_steps=3000 is num_steps=3000 for dsd-train.
# The stages are data_gen, curate, train, infer and evaluate.

take_overrides() {  # take_overrides OVERRIDE...: keep them for `stage`; an override without a stage's name ends the script
  given=()
  local override
  for override in "$@"; do
    if [[ ! $override =~ ^(data_gen|curate|train|infer|evaluate)\.[^=]+= ]]; then
      echo "$(basename "$0"): $override: name its stage: data_gen., curate., train., infer. or evaluate.$override" >&2
      exit 2
    fi
    given+=("$override")
  done
}

overrides_of() {  # overrides_of STAGE: put what was given for this stage into `overrides`
  overrides=()
  local override
  for override in "${given[@]}"; do
    if [[ $override == "$1."* ]]; then overrides+=("${override#"$1."}"); fi
  done
}

stage() {  # stage STAGE OVERRIDE...: run its command; what was given for the stage comes last and wins
  local overrides
  overrides_of "$1"
  "dsd-${1//_/-}" "${@:2}" "${overrides[@]}"
}

side_by_side() {  # side_by_side: prepare for `start`; JOBS at a time, by default one a core, each with one thread
  jobs=${JOBS:-$(env -u OMP_NUM_THREADS nproc)}  # nproc would count OMP_NUM_THREADS
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  failures=$(mktemp)
  trap 'rm -f "$failures"' EXIT
}

start() {  # start COMMAND...: run it in the background as soon as a place is free
  local what="$*"
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
  (trap '(($? == 0)) || echo "$what has failed" >> "$failures"' EXIT; "$@") &
}

finish() {  # finish: wait for all that was started; fails, and names what has failed, if anything has
  wait
  [[ ! -s $failures ]] || { cat "$failures" >&2; return 1; }
}
