#!/bin/sh
# Everything that needs an NVIDIA GPU. Fails, with what is missing, where there is none: a check that
# was skipped would look like one that passed.
set -eu
bin=.venv/bin

missing() {
    printf 'gpu-check: %s\n' "$1" >&2
    exit 1
}

gpu=$($bin/python -c '
import sys
from exporters.tensorrt.library import gpu_here
from exporters.tensorrt.record import EngineError
try:
    print(gpu_here())
except EngineError as error:
    sys.exit(f"gpu-check: {error}")
') || exit 1
for module in tensorrt tensorrt_rtx cuda.bindings; do
    case $module in
    tensorrt) package="tensorrt (from NVIDIA's index: docs/tensorrt.md)" ;;
    tensorrt_rtx) package="'.[tensorrt]'" ;;
    *) package="'.[gpu]'" ;;
    esac
    $bin/python -c "import $module" 2>/dev/null ||
        missing "no Python module $module: $bin/pip install $package"
done
echo "gpu-check: on $gpu"
exec $bin/pytest -m gpu tests/gpu ${PYTEST_ARGS:-}
