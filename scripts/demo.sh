#!/usr/bin/env bash
# The method from end to end, each stage a command that reads what the one before it left. Run again: every stage resumes,
# or says that it is done.
#   scripts/demo.sh                            the demo, minutes on two cores
#   scripts/demo.sh experiment=toybox_smoke    the same chain in its shortest form
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-experiment=toybox_demo}
name=${name#experiment=}
began=$SECONDS

dsd-data-gen "experiment=$name/data_gen"              # prompts -> grids: the teacher draws one subject in four panels
dsd-curate   "experiment=$name/curation"              # grids -> pairs: the judge keeps those that show the same subject
dsd-train    "experiment=$name/train"                 # pairs -> adapter: the teacher learns to take a reference
dsd-infer    "experiment=$name/infer" method=student  # adapter -> images: subjects it has never seen, in new contexts
dsd-infer    "experiment=$name/infer" method=text_only   # two baselines: the teacher, told only what text can tell,
dsd-infer    "experiment=$name/infer" method=copy_paste  # and the reference as it is
dsd-evaluate "experiment=$name/evaluate"              # how much of each subject was kept, how much of each prompt followed

echo "The whole chain took $((SECONDS - began)) s."
