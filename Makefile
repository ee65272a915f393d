# `make bench` and `make test` need no preparation: each sets up .venv itself, and again only when
# pyproject.toml or constraints.txt has changed. PYTHON=python3.12 make test uses another Python.
PYTHON ?= python3
EXTRAS := browser,dev,device,docs,report,train,ray
BENCH ?=
LEADERBOARD ?=
# A file stays on one worker: its fixtures build wheels and models once. Longest first: tests/conftest.py.
WORKERS := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Workers share the processors already: threads of their own would wait for each other, for minutes.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Bytecode is kept whatever the shell says: each worker, and each process that a test starts, would
# compile every module anew.
KEPT := PYTHONDONTWRITEBYTECODE=

VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench test check format lint types readme docs links leaderboard sensitivity maps slow benchmark packaging ray clients versions fuzz mutations clean
.NOTPARALLEL:

bench: $(VENV)/.core
	$(BIN)/rapgym bench $(BENCH)

test: $(VENV)/.dev
	$(ONE_THREAD) $(KEPT) $(BIN)/pytest -q $(WORKERS)

check: format lint types test

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

# What scores become where one number of a scenario is another: minutes; goes on where it stopped.
sensitivity: $(VENV)/.core
	$(BIN)/python -m rapgym.studies.sensitivity

# Who is cheapest over cards and loads around every scenario of an hour: minutes; goes on where it stopped.
maps: $(VENV)/.core
	$(BIN)/python -m rapgym.studies.maps

# The generated parts of README.md and docs/, the figure, RESULTS.md and model cards, from the
# results under baselines/results/.
readme: $(VENV)/.dev
	$(BIN)/python -m rapgym.studies.pages.readme

# The site, under build/docs: a warning is an error, and so is a link that leads nowhere.
docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -q -b dirhtml -c docs . build/docs
	@echo "build/docs/index.html"

# Links that leave the site: this asks the network.
links: $(VENV)/.dev
	$(BIN)/sphinx-build -q -b linkcheck -c docs . build/links

# Every entry's rows replayed, the policy of one asked again, and the page made of them: a minute.
# LEADERBOARD=--check writes nothing, and fails where the page is another.
leaderboard: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m rapgym.studies.pages.leaderboard $(LEADERBOARD)

# A million decisions against the promises of the shield: up to twenty minutes.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz.py

# Deliberate faults, in a copy: each must make a test fail. Minutes.
mutations: $(VENV)/.dev
	$(BIN)/python tests/mutations.py

# What takes minutes, or needs `rapgym models pull smollm2-135m` first.
slow: $(VENV)/.dev
	$(BIN)/pytest -q -m slow

# What steps and decisions take on this machine: minutes, best with nothing beside it.
benchmark: $(VENV)/.core
	$(ONE_THREAD) $(BIN)/python benchmarks/steps.py --lanes 1 1024 4096 --out baselines/results/steps.json
	$(ONE_THREAD) $(BIN)/python benchmarks/decisions.py --out baselines/results/decisions.json

# Clusters on this machine.
ray: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/pytest -q -m ray

# Learners of others, in a virtual environment of their own: some want other versions than we do.
clients: .clients/.ready
	$(ONE_THREAD) .clients/bin/pytest -q -m clients tests/clients

# The environments under each Gymnasium from our floor on, each in a virtual environment of its own.
GYMNASIUMS := 1.2.2 1.3.0 1.4.0

versions: $(GYMNASIUMS:%=.gymnasium/%/.ready)
	for version in $(GYMNASIUMS); do \
		$(ONE_THREAD) .gymnasium/$$version/bin/pytest -q tests/envs || exit 1; \
	done

packaging: $(VENV)/.dev
	$(BIN)/pytest -q -m packaging

clean:
	rm -rf $(VENV) .clients .gymnasium build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The core alone: seconds, no torch.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing with torch: minutes, the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(VENV)/.core $@

.clients/.ready: pyproject.toml
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet --disable-pip-version-check -e '.[clients,testing]' 'pytest>=8.4'
	.clients/bin/pip install --quiet --disable-pip-version-check --no-deps 'tianshou>=2' 'rliable==1.2.0'
	@touch $@

.gymnasium/%/.ready: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -e '.[render,testing]' 'pytest>=8.4' 'gymnasium==$*'
	@touch $@
