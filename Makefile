# Everything a newcomer needs: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install run experiments report test test-all torture check bench bench-all gpu-check clean

help:            ## what can be made
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/installed   ## the .venv with esolab and the tested versions of everything

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install     ## SFT and ESO on the embedded corpus, to one table (ARGS='seed=1' changes what you like)
	$(BIN)/python -m esolab -m experiments=quickstart $(ARGS)

SCALE ?= mini
JOBS ?= 2
EXPERIMENTS := table1,table3,table4,table5,seeds,decoding,ladder

experiments: install   ## the paper's tables and their controls (SCALE=mini; ARGS=seed=0,1 for fewer seeds); goes on where it was stopped
	$(BIN)/python -m esolab -m experiments=$(EXPERIMENTS) scale=$(SCALE) sweep.jobs=$(JOBS) $(ARGS)

report: install   ## experiments/<name>.md from the runs in outputs/<name>
	for name in $$(echo $(EXPERIMENTS) | tr , ' '); do \
	  $(BIN)/python -m esolab.report outputs/$$name > /dev/null && cp outputs/$$name/report.md experiments/$$name.md || exit; \
	done

test: install    ## the test-suite
	$(BIN)/python -m pytest --quiet --numprocesses 2

test-all: install   ## the test-suite with its slow tests
	$(BIN)/python -m pytest --quiet --numprocesses 2 -m ''

torture: install   ## runs killed by SIGKILL 25 times, compared byte for byte with runs that were not
	$(BIN)/python tests/torture.py --kills 25 --each 3

check: install   ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

PROMPTS ?= 4
# of a step; 16, the paper's batch, would take over an hour on 2 cores

bench: $(VENV)/benched   ## one step beside other frameworks' (DATA=DIR has the corpora; PROMPTS and ARGS change it)
	$(BIN)/python -m esolab.bench --prompts $(PROMPTS) $(if $(DATA),--data $(DATA)) $(ARGS)

bench-all: $(VENV)/benched   ## the same, and ragged lengths, tiny, bf16, other k
	$(BIN)/python -m esolab.bench --all --prompts $(PROMPTS) $(if $(DATA),--data $(DATA)) $(ARGS)

gpu-check: $(VENV)/benched   ## what only a GPU can show: exactness, speed and memory there
	$(BIN)/python -m esolab.bench.gpu_check $(if $(DATA),--data $(DATA))

$(VENV)/benched: $(VENV)/installed   # TRL, which only the race needs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@

clean:           ## forget .venv, caches and outputs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find outputs -mindepth 1 -not -name .gitkeep -delete
