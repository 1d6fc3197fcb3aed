#!/usr/bin/env bash
# Installs seqeval, with which figures of entities are compared, into an environment of its own, and prints its Python:
#     tests/peers/seqeval.sh [FOLDER]
# What is there already stays. tests/objective/test_label_metrics.py uses it.
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/seqeval}
if [ ! -e "$folder/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --disable-pip-version-check -q seqeval==1.2.2 numpy==2.4.6 scikit-learn==1.9.1 >&2
  touch "$folder/.ready"
fi
echo "$folder/bin/python"
