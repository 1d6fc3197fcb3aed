#!/usr/bin/env bash
# Installs datatrove, with which cleaning is compared, into an environment of its own, and prints its Python:
#     tests/peers/datatrove.sh [FOLDER]
# What is there already stays. tests/data/clean/test_verdicts.py uses it where it is.
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/datatrove}
if [ ! -e "$folder/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --disable-pip-version-check -q \
    datatrove==0.10.1 pyahocorasick tldextract==5.4.0 spacy==3.8.18 jieba==0.42.1 nltk==3.10.4 numpy==2.4.6 orjson ftfy regex >&2
  touch "$folder/.ready"
fi
if ! "$folder/bin/python" -c "import tokenizers" 2>/dev/null; then  # of make bench-prepare alone
  "$folder/bin/pip" install --disable-pip-version-check -q tokenizers==0.23.3 >&2
fi
echo "$folder/bin/python"
