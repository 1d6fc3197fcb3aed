#!/usr/bin/env bash
# Fetches text labelled by language (Django's translations, 90 of them, BSD) and other identifiers of languages, and
# measures them beside the stage `language`:
#     PYTHON=.venv/bin/python tests/peers/languages.sh [FOLDER]
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/languages}
python=${PYTHON:-python3}
if [ ! -e "$folder/.ready" ]; then
  "$python" -m pip install --disable-pip-version-check -q --no-deps --target "$folder" \
    Django==5.2.19 pycld2==0.42 py3langid==0.4.0 >&2
  touch "$folder/.ready"
fi
PYTHONPATH="$PWD:$folder" "$python" -m tests.benchmarks.languages "$folder"
