#!/bin/sh
# Runs the code of an earlier commit on today's schema, by its own tests, then beside today's code.
#   scripts/test_upgrade.sh COMMIT
set -eu
commit=${1:?name the commit of an earlier version}
tree=$(mktemp -d)
trap 'git worktree remove --force "$tree"' EXIT
git worktree add --detach "$tree" "$commit"
cp atelier/sql/migrations/*_pre_*.sql "$tree/atelier/sql/migrations/"
python=$PWD/.venv/bin/python
(
    cd "$tree"
    PYTHONPATH=$tree "$python" -m pytest -p no:cacheprovider \
        tests/integration/test_generation_store.py tests/integration/test_scheduler.py \
        tests/integration/test_leadership.py tests/integration/test_gateway.py
)
ATELIER_OLD_TREE=$tree "$python" -m pytest tests/integration/test_upgrade.py
