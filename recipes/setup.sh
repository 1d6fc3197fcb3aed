# What the recipes share. Each runs in a folder of its own: recipes/NAME.sh [FOLDER], recipes-out/NAME by default.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" WANDB_MODE="${WANDB_MODE:-disabled}"
folder=${1:-recipes-out/$(basename -- "$0" .sh)}
mkdir -p -- "$folder"
. "$root/recipes/models.sh"
cd -- "$folder"

banyan() { # says what it runs
	echo "+ banyan $*"
	"$python" -m launch "$@"
}

recipe() { # recipe NAME make|compare: what is this recipe's own
	"$python" -m "recipes.$1" "$2"
}
