#!/bin/sh
# The wheel works by itself: installed in a fresh environment, far from the checkout, it draws.
# An editable install would hide what the wheel forgot.
set -eu
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=$(scripts/find_python.sh)
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/*.whl)
echo "built $(basename "$wheel")"
"$work/venv/bin/python" -m pip install --quiet --requirement locks/embedded.txt
"$work/venv/bin/python" -m pip install --quiet --no-deps "$wheel"
"$work/venv/bin/python" -m pip check
mkdir "$work/empty"
cd "$work/empty"
"$work/venv/bin/atelier" up --once "a red circle on a blue background"
ls out/*.png
"$work/venv/bin/atelier" doctor
cd "$checkout"
