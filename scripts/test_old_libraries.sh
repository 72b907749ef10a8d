#!/usr/bin/env bash
# Test the pipeline against the oldest libraries that pyproject.toml allows, laid over the newest ones of .venv.
#
# Pinned: every floor `name>=version` of the dependencies and of the extras below, at exactly that version or, where that
# has no wheel for this Python, at the next that has one; and what they need. Not pinned: torch and torchvision, which take
# gigabytes and stay as they are in .venv; deepspeed, which has no wheels; the extra `dev`.
set -euo pipefail
cd "$(dirname "$0")/.."
old=build/old-libraries
extras=(gemini-legacy openai quantization slurm)
python=$(command -v python)
compile=(
  "$python" -m uv pip compile --quiet --python "$python" pyproject.toml "${extras[@]/#/--extra=}"
  --only-binary :all: --prerelease disallow --override "$old/kept.txt" --no-header --no-annotate
)

if ! "$python" -m uv --version >/dev/null 2>&1; then
  echo "test_old_libraries.sh: uv is needed to find the versions; install it with: pip install uv" >&2
  exit 1
fi
if [[ ! -f $old/.installed || pyproject.toml -nt $old/.installed ]]; then
  rm -rf "$old"
  mkdir -p "$old"
  {
    for name in torch torchvision; do
      echo "$name==$("$python" -c "from importlib.metadata import version; print(version('$name'))")"
    done
    echo 'antlr4-python3-runtime; python_version < "3"'  # has no wheel; that of .venv serves
  } > "$old/kept.txt"
  "${compile[@]}" --no-deps --resolution lowest-direct --output-file "$old/floors.txt"
  "${compile[@]}" --constraint "$old/floors.txt" --output-file "$old/oldest.txt"
  "$python" -m uv pip freeze --quiet --python "$python" | sort > "$old/newest.txt"
  sort "$old/oldest.txt" | comm -23 - "$old/newest.txt" > "$old/differing.txt"
  "$python" -m uv pip install --quiet --python "$python" --no-deps --only-binary :all: --target "$old" \
    --requirements "$old/differing.txt"
  touch "$old/.installed"
fi
echo "Oldest libraries: $(tr '\n' ' ' < "$old/floors.txt")"
PYTHONPATH=$old OMP_NUM_THREADS=1 "$python" -m pytest -q -n "${JOBS:-2}" -m "not slow" tests/models tests/pipeline "$@"
