#!/bin/sh
# edge-af compare for any CI system that runs a POSIX shell:
#
#     sh compare.sh BASE CANDIDATE [more options of edge-af compare]
#
# What could not be told (exit status 3) is tried again, and then fails, or passes with CANNOT_TELL=pass. All else ends with the status of
# edge-af compare: 0 no worse, 1 worse, 2 the base or the command line is at fault. The folder $OUT, for the CI system to keep,
# then holds compare.json, compare.md and, for its view of tests, compare.xml (JUnit).
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
    # Another seed is another order of turns. What is given here last wins over it.
    status=0
    edge-af compare --seed "$try" --out "$OUT/compare.json" --markdown "$OUT/compare.md" --junit "$OUT/compare.xml" "$@" || status=$?
    if [ "$status" -ne 3 ] || [ "$try" -ge "$TRIES" ]; then
        break
    fi
    try=$((try + 1))
    echo "compare.sh: it could not be told; try $try of $TRIES" >&2
done

if [ "$status" -eq 3 ] && [ "$CANNOT_TELL" = pass ]; then
    echo "compare.sh: it could not be told, which passes here (CANNOT_TELL=pass)" >&2
    exit 0
fi
exit "$status"
