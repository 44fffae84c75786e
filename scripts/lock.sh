#!/bin/sh
# Writes locks/: embedded.txt with hashes, for users; dev.txt with everything, for contributors.
# dev.txt has no hashes: torch's build differs from machine to machine.
set -eu
compile() {
    .venv/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-emit-index-url \
        --no-emit-find-links --no-emit-trusted-host "$@" pyproject.toml
}
mkdir -p locks
compile --extra embedded --generate-hashes --output-file locks/embedded.txt
compile --all-extras --output-file locks/dev.txt
sed -i.bak 's/^\(torch==[0-9.]*\)+.*/\1/' locks/dev.txt # the local build's name is nobody else's
rm locks/dev.txt.bak
