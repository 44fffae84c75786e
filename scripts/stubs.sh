#!/bin/sh
# stubs.sh FOLDER: compiles protos/ to FOLDER/atelier/v1.
set -eu
bin=$PWD/.venv/bin
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# google/rpc/*.proto lie in site-packages; the plugins are found by PATH.
PATH=$bin:$PATH "$bin/python" -m grpc_tools.protoc --proto_path=protos --proto_path="$site" \
    --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" \
    protos/atelier/v1/*.proto
