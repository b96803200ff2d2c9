#!/bin/sh
# Makes the Python environment of the live tests in the folder $1: real MLX and mlx-lm, at the versions compared with.
set -eu

venv=$1
here=$(cd "$(dirname "$0")/.." && pwd)
stamp="$venv/requirements.sha256"
wanted=$(cat "$here/tests/live/requirements.txt" "$here/tests/live/requirements-nodeps.txt" | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check -r "$here/tests/live/requirements.txt"
"$venv/bin/pip" install -q --disable-pip-version-check --no-deps -r "$here/tests/live/requirements-nodeps.txt"
echo "$wanted" >"$stamp"
