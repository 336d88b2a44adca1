#!/bin/bash
# The whole check: exported code and cleaned notebooks are current, ruff finds nothing, pytest passes
# (tests/test_wings.py runs the notebooks of library, tools and course).
set -e
cd "$(dirname "$0")/.."
BIN=${VENV:-.venv}/bin

unset PYTHONDONTWRITEBYTECODE  # else each of some fifty processes compiles the package anew

sources() { find sslnb nbs -name '*.py' -o -name '*.ipynb' | LC_ALL=C sort | xargs sha256sum; }  # works without git, too
before=$(sources)
$BIN/nbdev_export
$BIN/nbdev_clean
if ! diff <(echo "$before") <(sources); then
    echo "make export clean-nb changes the files above: run it and commit what it changes" >&2
    exit 1
fi
$BIN/ruff check -q .
# Two at a time, each with its share of the cores: most of a test is starting things. (Three on two cores took longer.)
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( cores > 1 ? cores / 2 : 1 ))}
$BIN/python -m pytest -n 2 --dist worksteal
