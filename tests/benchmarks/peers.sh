#!/usr/bin/env bash
# Installs what Banyan is measured against, each into a virtual environment of its own: build/peers/NAME.
#     tests/benchmarks/peers.sh [NAME…]
# with the torch that constraints.txt names. What is there already stays.
set -euo pipefail
cd "$(dirname "$0")/../.."
torch=$(grep '^torch==' constraints.txt)

install() { # NAME PACKAGE…
  local folder=build/peers/$1
  shift
  if [ -e "$folder/.ready" ]; then return; fi
  echo "installing $* into $folder"
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --disable-pip-version-check --no-compile -q "$torch" "$@"
  touch "$folder/.ready"
}

for name in "${@:-huggingface litgpt lightning torchtitan}"; do
  for one in $name; do
    case $one in
      huggingface) install huggingface transformers==5.23.0 accelerate==1.15.0 ;;
      litgpt) install litgpt litgpt==0.5.13 ;;
      lightning) install lightning lightning==2.6.6 ;;
      torchtitan) install torchtitan torchtitan==0.2.2 triton ;; # which a torch for CPUs doesn't bring
      *) echo "$one: no such peer; huggingface, litgpt, lightning and torchtitan are known" >&2; exit 2 ;;
    esac
  done
done
