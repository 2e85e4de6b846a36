#!/usr/bin/env bash
# From nothing to a registered part segmenter on the toy set:  bash jobs/quickstart.sh [--from-scratch]
#
# Makes .venv, installs the tested versions, and runs the chain: short pre-training with two Ray workers,
# label head from ten samples, pairs, student, evaluation, registry, segmentation. The same command again
# goes on where it stopped. --from-scratch also trains the generator (up to 3 hours on two cores).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash .ci/environment)
PATH="$(dirname "$python"):$PATH"
export PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
exec raygseg quickstart "$@"
