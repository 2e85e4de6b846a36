#!/usr/bin/env bash
# Every check and test, in tiers:  bash tests/run.sh [check gpu unit ray e2e] [pytest arguments]
#
#   bash tests/run.sh                      everything (a machine without a GPU skips the gpu tier, saying so)
#   bash tests/run.sh unit -k resume       one tier, some tests
#
# All tiers run even if one fails; the exit code is 1 if any did. RAYGSEG_DATA names the folder of real
# pictures; tests that need it are skipped, saying so, where it is not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(bash .ci/environment test,dev)
bin=$(dirname "$python")
# Ray's workers and the tests' subprocesses must find this Python first.
export PATH="$bin:$PATH"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export PYTHONFAULTHANDLER=1

tiers=()
while [ $# -gt 0 ]; do
    case $1 in
    check | gpu | unit | ray | e2e) tiers+=("$1") && shift ;;
    *) break ;;
    esac
done
[ ${#tiers[@]} -gt 0 ] || tiers=(check gpu unit ray e2e)

check() {
    local failed=0
    "$bin/ruff" check . || failed=1
    "$bin/ruff" format --check . || failed=1
    "$bin/mypy" || failed=1
    "$bin/lint-imports" || failed=1
    return $failed
}

# tier NAME SECONDS_PER_TEST [pytest arguments]
tier() {
    local name=$1 limit=$2 code=0
    shift 2
    [ -d "tests/$name" ] || { echo "no tests/$name" && return 0; }
    "$python" -m pytest "tests/$name" --timeout="$limit" --durations=10 "$@" || code=$?
    # 5: no test was collected, which is no fault when the arguments chose some.
    [ $code -eq 0 ] || { [ $code -eq 5 ] && [ $# -gt 0 ]; }
}

failed=() report=()
for name in "${tiers[@]}"; do
    echo "=== $name"
    began=$SECONDS outcome=passed
    case $name in
    check) check || outcome=FAILED ;;
    unit) tier unit 120 -n 2 --dist loadfile "$@" || outcome=FAILED ;;
    ray) tier ray 300 -n 2 --dist loadfile "$@" || outcome=FAILED ;;
    e2e) tier e2e 900 "$@" || outcome=FAILED ;;
    gpu) tier gpu 300 "$@" || outcome=FAILED ;;
    esac
    [ $outcome = passed ] || failed+=("$name")
    report+=("$(printf '%-6s %-7s %5d s' "$name" $outcome $((SECONDS - began)))")
done

echo "=== summary"
printf '%s\n' "${report[@]}"
[ ${#failed[@]} -eq 0 ]
