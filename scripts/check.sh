#!/bin/sh
# Every check, the quick ones first. Stops at the first that fails.
set -eu
bin=.venv/bin

heading() { printf '\n==== %s ====\n' "$1"; }

heading "lint"
$bin/ruff check .
$bin/ruff format --check .
heading "types"
$bin/mypy
heading "import rules"
$bin/lint-imports
heading "contract and generated files"
scripts/verify.sh
heading "tests"
# Three files at a time, in their order (the slowest come first): they mostly wait for processes.
exec $bin/pytest -n "${TEST_WORKERS:-3}" --dist loadfile --no-loadscope-reorder ${PYTEST_ARGS:-}
