#!/usr/bin/env bash
# What neurotool does on a GPU, in under eight minutes, without a network: see gpu.py. Needs a Python with its
# dependencies, torch for the GPU among them ($PYTHON, else python3); neurotool itself may be this checkout.
#
#   benchmarks/gpu.sh --data DIR --teacher DIR [--output DIR] [--device cpu --small]
#   benchmarks/gpu.sh table.py DATA FOLDER …                      # another script of this folder, run in the same way
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if ! "$python" -c 'import neurotool.train' 2>/dev/null; then
  # The tree as it is installed, made of links.
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  mkdir "$site/neurotool" "$site/neurotool-0.dist-info"
  ln -s "$root"/neurotool/* "$root"/{train,export,lava_runtime,energy} "$site/neurotool/"
  printf 'Metadata-Version: 2.1\nName: neurotool\nVersion: %s\n' "$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")" \
    > "$site/neurotool-0.dist-info/METADATA"
  export PYTHONPATH="$site:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
  export PYTHONSAFEPATH=1 # the folder neurotool of this checkout, without its rooms, would come first
fi
script=gpu.py
case "${1:-}" in *.py) script=$1 && shift ;; esac
"$python" "$root/benchmarks/$script" "$@"
