#!/bin/sh
# edge-af compare for any CI system that runs a POSIX shell:
#
#     sh compare.sh BASE CANDIDATE [more options of edge-af compare]
#
# An inconclusive comparison (exit code 3) is tried again. If it stays inconclusive, it fails, or passes with CANNOT_TELL=pass.
# Other exit codes are those of edge-af compare: 0 no worse, 1 worse, 2 error in the base or the command line. Keep the
# folder $OUT as an artifact. It contains compare.json, compare.md and, for the CI system's test report, compare.xml (JUnit).
set -u
OUT=${OUT:-edge-af-compare}
TRIES=${TRIES:-2}
CANNOT_TELL=${CANNOT_TELL:-fail}

if [ "$#" -lt 2 ]; then
    echo "usage: sh compare.sh BASE CANDIDATE [more options of edge-af compare]" >&2
    exit 2
fi
mkdir -p "$OUT" || exit 2

try=1
while :; do
    # Each try gets another seed and so another order of turns. A later --seed overrides it.
    status=0
    edge-af compare --seed "$try" --out "$OUT/compare.json" --markdown "$OUT/compare.md" --junit "$OUT/compare.xml" "$@" || status=$?
    if [ "$status" -ne 3 ] || [ "$try" -ge "$TRIES" ]; then
        break
    fi
    try=$((try + 1))
    echo "compare.sh: inconclusive; try $try of $TRIES" >&2
done

if [ "$status" -eq 3 ] && [ "$CANNOT_TELL" = pass ]; then
    echo "compare.sh: inconclusive; passing anyway (CANNOT_TELL=pass)" >&2
    exit 0
fi
exit "$status"
