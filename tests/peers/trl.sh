#!/usr/bin/env bash
# Installs TRL, with which preferences are compared, into an environment of its own, and prints its Python:
#     tests/peers/trl.sh [FOLDER]
# with the torch that constraints.txt names. What is there already stays. tests/objective/test_trl.py uses it where it is.
set -euo pipefail
torch=$(grep '^torch==' "$(dirname "$0")/../../constraints.txt")
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/trl}
if [ ! -e "$folder/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --disable-pip-version-check --no-compile -q \
    "$torch" trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 >&2
  touch "$folder/.ready"
fi
echo "$folder/bin/python"
