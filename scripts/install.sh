#!/bin/sh
# install.sh LOCK: makes .venv if it is missing, and installs LOCK and the package into it.
# Every package is named in LOCK, so nothing is resolved here, and nothing else comes in.
set -eu
lock=$1

if [ ! -x .venv/bin/python ]; then
    python=$(scripts/find_python.sh)
    echo "making .venv with $python"
    "$python" -m venv .venv
fi
echo "installing $lock (the first time, some minutes)"
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install --progress-bar on --requirement "$lock"
.venv/bin/python -m pip install --quiet --no-deps --editable .
