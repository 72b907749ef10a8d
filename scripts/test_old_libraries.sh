#!/usr/bin/env bash
# The pipeline's tests against the oldest libraries that pyproject.toml allows, laid over the newest ones of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
old=build/old-libraries
packages=(diffusers==0.36.0 transformers==4.57.3 peft==0.18.0 huggingface_hub==0.36.2 tokenizers==0.22.2 torchao==0.14.1)
if [[ ! -f $old/.installed ]]; then
  rm -rf "$old"
  python -m uv pip install --quiet --no-deps --target "$old" "${packages[@]}" 2>/dev/null ||
    python -m pip install --quiet --disable-pip-version-check --no-deps --target "$old" "${packages[@]}"
  touch "$old/.installed"
fi
export PYTHONPATH=$old OMP_NUM_THREADS=1
python -c 'import diffusers, transformers; print("diffusers", diffusers.__version__, "transformers", transformers.__version__)'
python -m pytest -q -n "${JOBS:-2}" -m "not slow" \
  tests/models tests/infer/test_{pipeline,fidelity,guidance,loras,speed}.py "$@"
