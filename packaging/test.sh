#!/bin/sh
# Installs reflexd with its development tools and runs everything that CI runs: `sh packaging/test.sh`. With --slow also
# the tests that take minutes, and the coverage of all is measured. Every check runs, whatever the ones before it said; the
# status tells whether all passed.
set -eu
me=test.sh
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/packaging/venv.sh"

marked='not slow'
for argument in "$@"; do
    case $argument in
        --slow) marked='' ;;
        *) fail "unknown argument $argument: there is only --slow" ;;
    esac
done

make_venv
install_editable
cd "$root"
PATH=$venv/bin:$PATH
export PATH

failed=''
check() { # NAME COMMAND...
    name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed="$failed $name"
}

check lint ruff check .
check format ruff format --check .
check types mypy
check imports lint-imports
# Three at a time: more than half of a test's life is waiting for a daemon. A file's tests stay together, for they share daemons.
if [ -n "$marked" ]; then
    check tests python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "$marked" --durations=10
else # measuring the coverage of every daemon costs half as much time again
    check tests python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report= --durations=10
    check coverage coverage report --format=total
fi

if [ -n "$failed" ]; then
    fail "failed:$failed"
fi
printf '\n%s: everything passed\n' "$me"
