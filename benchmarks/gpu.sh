#!/bin/sh
# What only a GPU can tell, in under eight minutes on an H100, as one JSON record:
#   benchmarks/gpu.sh                      on a machine with a CUDA device
#   benchmarks/gpu.sh --dry --out FILE     tiny models on any machine, to see that all of it runs
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
