#!/bin/sh
# `make compare`: compare this tree's export of the short demo's Attend-Fusion with another commit's export, and with the
# limits in budget.yaml. The network is trained once and exported by both trees.
#
#     sh .ci/compare_base.sh BIN DEMO COMMIT
#
# BIN contains python and edge-af, DEMO is the output folder of `edge-af demo`. An inconclusive comparison, as on a busy
# machine, passes with a warning. If the commit is missing or cannot export this run, only budget.yaml is checked.
set -eu
bin=$(cd "$1" && pwd)
demo=$(cd "$2" && pwd)
commit=$3
cd "$(dirname "$0")/.."
# The demo prepares a single dataset.
for data in "$demo"/prepared/*; do :; done

status=2
compare() {
    status=0
    "$bin/edge-af" compare --budget-file .ci/budget.yaml --data "$data/eval" --out "$demo/compare.json" "$@" || status=$?
}

set -- "$bin/python" -m edge_af export "$demo/runs/attend-fusion" --int8 --calibration-data "$data/train" --calibration-videos 128 --out
if git rev-parse --verify --quiet "$commit^{commit}" >/dev/null 2>&1; then
    compare --base-ref "$commit" --budget 24s -- "$@" '{out}'
else
    echo "make compare: no commit '$commit' here (no repository, no parent, or a shallow clone)" >&2
fi
if [ "$status" -eq 2 ]; then
    echo "make compare: checking only the limits in .ci/budget.yaml, without another commit:" >&2
    here=$demo/compare-artifacts
    "$@" "$here" --overwrite
    compare --budget 6s "$here" "$here"
fi
if [ "$status" -eq 3 ]; then
    echo "make compare: warning: the comparison is inconclusive; passing anyway" >&2
    exit 0
fi
exit "$status"
