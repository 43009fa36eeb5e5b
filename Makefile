# kdasr: every target sets up .venv itself when it needs it.
#
#   make demo      the main job on the embedded corpus: speech in, a report out
#   make demo-seeds   students of the demo with three seeds each, compared; takes 1.5 hours
#   make results   every row of conf/results.yaml with its seeds, resumed where it stopped; takes long
#   make lpm       learning without transcripts: every row of conf/lpm/lpm.yaml; takes long
#   make unified   one model for every latency: every row of conf/unified/unified.yaml; takes long
#   make test      the test suite          make lint   ruff, mypy, import-linter
#   make docs      the documents as a site: build/site/index.html
#   make package   a wheel and an sdist, each installed alone and tried
#   make torture   damaged files, killed commands and full disks: five minutes of them
#   make test-k2   the losses against k2 itself, in .venv-k2 (Linux, Python 3.11, 4 GB)
#   make lm        a language model over the demo's pieces; make bench-lpm: what a step without transcripts costs
#   make setup-k2  k2 for .venv: the build for its torch (K2_BUILD=cpu or cuda12.8 chooses)
#   make bench     what losses, distillation, streams and the server cost, against peers
#
# The stages of the recipe: make teacher | baseline | student | chunks | stream-decode | export | long-form | report.
# They take SIZE (tiny | demo | base | large), CORPUS (synthetic | librispeech), JOBS (trainings side by side) and ARGS
# (further options of egs/librispeech/run.sh), for example
#   make teacher SIZE=base        make student SIZE=base ARGS="--seed 2"

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
K2_VENV := .venv-k2
BIN := $(VENV)/bin
SIZE ?= demo
CORPUS ?= synthetic
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2); echo $$(( n > 2 ? 2 : n )))
ARGS ?=
RUN = PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run.sh --corpus $(CORPUS) --size $(SIZE) --jobs $(JOBS) $(ARGS)

.PHONY: help setup lm lpm unified bench-lpm setup-k2 demo demo-seeds results test test-k2 torture lint docs package teacher baseline student chunks stream-decode export long-form report bench bench-loss bench-distill bench-stream bench-serve bench-data clean
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# The stamp depends on what is installed, so a changed pin installs again.
setup: $(VENV)/.installed
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kdasr needs Python 3.11 or later; $(PYTHON) is older. Set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

setup-k2: setup
	@$(BIN)/python tools/setup_k2.py $(K2_BUILD)

demo: setup
	$(RUN) --size demo

# Students of the demo's teacher, each with three seeds. exp/demo is left as it is.
demo-seeds: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run_results.sh --size demo --exp exp/demo-seeds --jobs $(JOBS) $(ARGS)

# All rows, or ARGS='--rows "two-stage output" --upto dev'; see egs/librispeech/run_results.sh --help.
results: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run_results.sh --corpus $(CORPUS) --jobs $(JOBS) $(ARGS)

# All rows, or ARGS='--rows "lpm" --upto dev'; see egs/librispeech/run_lpm.sh --help.
lpm: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run_lpm.sh --corpus $(CORPUS) --jobs $(JOBS) $(ARGS)

# One model for every latency: all rows, or ARGS='--rows "mcr dual-mode" --upto dev'.
unified: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run_results.sh --size results \
		--conf egs/librispeech/conf/unified/unified.yaml --exp exp/unified --corpus $(CORPUS) --jobs $(JOBS) $(ARGS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/torture $(ARGS)

test-k2: $(K2_VENV)/.installed
	OMP_NUM_THREADS=1 $(K2_VENV)/bin/python -m pytest --quiet tests/k2_conformance $(PYTEST_ARGS)

$(K2_VENV)/.installed: requirements-k2.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "test-k2 needs Python 3.11, as k2's wheel does; $(PYTHON) is another. Set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(K2_VENV)
	$(K2_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --require-hashes --requirement requirements-k2.txt
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Broken links fail. The variable silences advice about a successor of the theme.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: setup
	tools/check_package.sh $(BIN)/python

# A language model over the demo's pieces, from the text beside its corpus.
lm: setup
	$(BIN)/kdasr train --config egs/librispeech/conf/lm/demo.yaml --exp exp/lm/demo
	$(BIN)/kdasr average exp/lm/demo

# The recipe's stages: 0-2 data, 3 teacher, 4 baselines, 5-6 student, 7-8 decoding, 9 export, 10 long streams, 11 report.
# A finished stage is skipped, so every target may be called on its own.
teacher: setup
	$(RUN) --stage 0 --stop-stage 3
baseline: setup
	$(RUN) --stage 0 --stop-stage 4
student: teacher
	$(RUN) --stage 5 --stop-stage 6
chunks: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" egs/librispeech/run_chunks.sh --corpus $(CORPUS) --size $(SIZE) --jobs $(JOBS) $(ARGS)
stream-decode: setup
	$(RUN) --stage 7 --stop-stage 8
export: setup
	$(RUN) --stage 9 --stop-stage 9
long-form: setup
	$(RUN) --stage 10 --stop-stage 10
report: setup
	$(RUN) --stage 11 --stop-stage 11

# Every benchmark prints ratios against a peer measured in the same run, and writes them to exp/bench/.
bench: bench-loss bench-distill bench-stream bench-serve
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_encoder.py --out exp/bench/encoder.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_corpus.py --out exp/bench/corpus.json

bench-loss: setup $(K2_VENV)/.installed
	$(BIN)/python tools/build_fast_rnnt.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_loss.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/loss_cost_model.py

bench-distill: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_distill.py

# On the demo's student: streams per core against sherpa-onnx, then memory and a long stream.
bench-stream: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_stream.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/stream_memory.py exp/demo/two-stage

# On the demo's exported student: what the server costs beside the recognizer in it.
bench-serve: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_serve.py

# Start, memory and speed of training data of up to 15 million cuts; ARGS="--sizes 10000,1000000" without the largest.
bench-data: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_data.py $(ARGS)

# Needs the demo and its language model.
bench-lpm: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_lpm.py

clean:
	rm -rf exp/demo exp/tiny data/demo data/tiny .pytest_cache .ruff_cache .mypy_cache .hypothesis
