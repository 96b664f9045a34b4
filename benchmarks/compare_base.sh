#!/bin/sh
# `make compare`: is what this tree exports of the short demo's Attend-Fusion slower, larger or worse than what another commit exports of
# it, or beyond budget.yaml? Trained once, exported by both trees.
#
#     sh benchmarks/compare_base.sh BIN DEMO COMMIT
#
# BIN holds python and edge-af, DEMO is the folder of `edge-af demo`. A busy machine fails nothing: what could not be told passes with
# a warning, and so does a tree without such a commit.
set -eu
bin=$(cd "$1" && pwd)
demo=$(cd "$2" && pwd)
commit=$3
cd "$(dirname "$0")/.."

if [ -z "$commit" ] || ! git rev-parse --verify --quiet "$commit^{commit}" >/dev/null 2>&1; then
    echo "make compare: skipped, there is no commit '$commit' here (no repository, no parent, or a shallow clone)" >&2
    exit 0
fi
# The demo prepares one data set.
for data in "$demo"/prepared/*; do :; done

status=0
"$bin/edge-af" compare --base-ref "$commit" --budget 24s --budget-file benchmarks/budget.yaml --data "$data/eval" --out "$demo/compare.json" \
    -- "$bin/python" -m edge_af export "$demo/runs/attend-fusion" --int8 --calibration-data "$data/train" --calibration-videos 128 --out {out} ||
    status=$?
if [ "$status" -eq 3 ]; then
    echo "make compare: warning: it could not be told on this machine now, which passes here" >&2
    exit 0
fi
exit "$status"
