#!/bin/bash
# The whole check: exported code and cleaned notebooks are current, library notebooks run, pytest passes.
set -e
cd "$(dirname "$0")/.."
BIN=${VENV:-.venv}/bin

before=$(git status --porcelain; git diff)
$BIN/nbdev_export
$BIN/nbdev_clean
after=$(git status --porcelain; git diff)
if [ "$before" != "$after" ]; then
    git diff --stat
    echo "make export clean-nb changes the files above: run it and commit what it changes" >&2
    exit 1
fi
$BIN/nbdev_test --n_workers 0 --path nbs/lib
$BIN/python -m pytest
