#!/bin/sh
# The one test command: makes its environment, checks style and types, runs every test.
# Most tests wait for processes, so four run side by side on two cores. Options go to pytest, for instance:
# tests/run.sh --sweep, or: tests/run.sh tests/plans -k dedup
set -eu
cd "$(dirname "$0")/.."
sh tests/setup.sh test
.venv/bin/ruff check cftools tests
.venv/bin/ruff format --check cftools tests
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 4 --dist loadgroup "$@"
