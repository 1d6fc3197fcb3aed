#!/usr/bin/env bash
# Fetches texts that prepare is tried on, by the names of their packages, and prints their folder:
#     tests/peers/corpora.sh [FOLDER]
#   linux-doc/  English technical documents (Debian's linux-doc-6.1, GPL-2)
#   poetry/     Chinese poems as JSON (npm's chinese-poetry, MIT)
# Nothing is installed; what is there already stays. tests/verbs/test_prepare_planted.py uses it with --full.
set -euo pipefail
folder=${1:-${TMPDIR:-/tmp}/banyan-peers/corpora}
if [ ! -e "$folder/.ready" ]; then
  mkdir -p "$folder/linux-doc" "$folder/poetry"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  { apt-get update -qq || true; apt-get download -qq linux-doc-6.1; } >&2
  dpkg -x linux-doc-6.1_*.deb deb
  cp -r deb/usr/share/doc/linux-doc-6.1/. "$folder/linux-doc/"
  npm pack --silent chinese-poetry@2.0.1 >&2
  tar -xzf chinese-poetry-2.0.1.tgz
  cp -r package/. "$folder/poetry/"
  touch "$folder/.ready"
fi
echo "$folder"
