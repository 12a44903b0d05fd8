#!/usr/bin/env bash
# What neurotool does on a GPU, in under eight minutes, without a network: see gpu.py. Needs a Python with its
# dependencies, torch for the GPU among them ($PYTHON, else python3); neurotool itself may be this checkout.
#
#   benchmarks/gpu.sh --data DIR --teacher DIR [--output DIR] [--device cpu --small]
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
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" "$root/benchmarks/gpu.py" "$@"
