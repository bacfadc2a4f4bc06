#!/bin/sh
# Installs reflexd into a virtual environment of this checkout and shows it: `sh packaging/try.sh`. Needs Python 3.11 or
# newer with its venv module and nothing else; nothing is written outside the environment and the user's cache. A second
# run is quick. What is given to it goes to `reflexd demo`.
set -eu
me=try.sh
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/packaging/venv.sh"

make_venv
install_plain
exec "$venv/bin/reflexd" demo "$@"
