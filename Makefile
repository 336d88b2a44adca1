# Every target sets up what it needs: `make study` and `make test` work on a fresh clone.
VENV  ?= .venv
BIN   := $(VENV)/bin
UV    := $(shell command -v uv 2>/dev/null)

.PHONY: setup study test test-fast types lab docs data export clean-nb

setup: $(VENV)/.ready ## the environment alone

study: $(VENV)/.ready ## every study notebook that is not there and valid, executed into reports/<data>-<scale>/
	$(BIN)/python -m sslnb study $(if $(SCALE),--scale $(SCALE)) $(if $(DATA),--data $(DATA))

test: $(VENV)/.ready ## exported code is current; notebooks of library and tools; pytest
	VENV=$(VENV) tests/run.sh

test-fast: $(VENV)/.ready ## the inner loop: no kernel, no browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

types: $(VENV)/.ready ## mypy on the exported package; its settings are in pyproject.toml
	$(BIN)/mypy

lab: $(VENV)/.ready
	$(BIN)/jupyter lab nbs

docs: $(VENV)/.ready ## the site of all notebooks, with the reference: _docs/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d _docs/doctrees . _docs/html

data: $(VENV)/.ready ## unpack the real image sets, where their packs are at hand, into SSLNB_DATA (or data/)
	$(BIN)/python data/unpack.py $(if $(PACKS),"$(PACKS)")

export: $(VENV)/.ready ## the package from nbs/lib, nbs/tools, nbs/course; headers and README from studies.yaml and records
	$(BIN)/nbdev_export
	$(BIN)/python -c "from sslnb.tools import front, notebook; notebook.draw_headers(); front.draw_front()"

clean-nb: $(VENV)/.ready
	$(BIN)/nbdev_clean

# uv takes seconds where venv + pip takes minutes; both install the pinned versions.
# Compiled here once: where Python may not write bytecode, every kernel would compile torch anew (10 s).
# jsonschema is pinned below 4.25: later ones build a parser of addresses, 2 s in every process that opens a notebook.
$(VENV)/.ready: settings.ini setup.py pyproject.toml constraints.txt
ifdef UV
	test -x $(BIN)/python || uv venv $(VENV)
	uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,docs,distributed,sweeps]'
else
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs,distributed,sweeps]'
endif
	touch $@
