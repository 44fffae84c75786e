#!/bin/sh
# Everything that is generated and committed is rebuilt and compared; the contract is linted.
set -eu
bin=$PWD/.venv/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "stubs"
scripts/stubs.sh "$work"
for built in "$work"/atelier/v1/*; do
    diff -u "atelier/v1/$(basename "$built")" "$built" || {
        echo "the stubs differ from the protos: run make stubs" >&2
        exit 1
    }
done

echo "buf lint"
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$bin/python" -m grpc_tools.protoc --proto_path=protos --proto_path="$site" --include_imports \
    --include_source_info --descriptor_set_out="$work/image.binpb" protos/atelier/v1/*.proto
"$bin/buf" lint "$work/image.binpb#format=binpb" --config buf.yaml

# What was once given out is kept as it was compiled then; tests/contract calls today's gateway by it.
for old in tests/contract/*.binpb; do
    echo "buf breaking against $(basename "$old")"
    "$bin/buf" breaking "$work/image.binpb#format=binpb" --against "$old#format=binpb" --config buf.yaml
done

echo "states"
"$bin/python" scripts/draw_states.py --check

echo "metrics"
"$bin/python" scripts/write_metrics.py --check

echo "dashboards"
"$bin/python" scripts/write_dashboards.py --check

echo "model repository"
"$bin/python" -m exporters verify
