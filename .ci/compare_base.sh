#!/bin/sh
# `make compare`: is what this tree exports of the short demo's Attend-Fusion slower, larger or worse than what another commit exports of
# it, or beyond budget.yaml? Trained once, exported by both trees.
#
#     sh .ci/compare_base.sh BIN DEMO COMMIT
#
# BIN holds python and edge-af, DEMO is the folder of `edge-af demo`. A busy machine fails nothing: what could not be told passes with
# a warning. Where that commit is not there or cannot export this run, budget.yaml's limits alone decide.
set -eu
bin=$(cd "$1" && pwd)
demo=$(cd "$2" && pwd)
commit=$3
cd "$(dirname "$0")/.."
# The demo prepares one data set.
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
    echo "make compare: there is no commit '$commit' here (no repository, no parent, or a shallow clone)" >&2
fi
if [ "$status" -eq 2 ]; then
    echo "make compare: not compared with another commit, but held against .ci/budget.yaml:" >&2
    here=$demo/compare-artifacts
    "$@" "$here" --overwrite
    compare --budget 6s "$here" "$here"
fi
if [ "$status" -eq 3 ]; then
    echo "make compare: warning: it could not be told on this machine now, which passes here" >&2
    exit 0
fi
exit "$status"
