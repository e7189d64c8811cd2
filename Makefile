# make run · make demo · make test · make soak · make lint · make migration · make screenshots

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# The first Python here that is new enough; PYTHON=… chooses another one.
OLD = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11 python; do \
	command -v $$each >/dev/null 2>&1 && $$each -c '$(OLD)' 2>/dev/null && echo $$each && break; done)

.PHONY: help run demo test soak lint format parts migration screenshots

help:
	@echo "make run           install what is needed and start everything on this machine"
	@echo "make demo          the same with sample projects, accounts and a receiver of callbacks"
	@echo "make test          run every check and test"
	@echo "make soak          run the fault suite in the promised size, for hours"
	@echo "make screenshots   take the pictures of the documentation anew"

run: $(VENV)/installed
	@$(BIN)/python app.py

demo: $(VENV)/installed
	@$(BIN)/python app.py --demo

test: $(VENV)/installed-dev lint parts
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(TESTS)

# The fault suite in the size that is promised: hours. A part of it: make soak SOAK=tests/fire/test_disk.py
soak: $(VENV)/installed-dev parts
	@tests/fire/soak $(SOAK)

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy reviewqueue app.py

format: $(VENV)/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Programs for the tests. Where they cannot be installed the tests name what they left out.
parts: $(VENV)/installed-dev
	@tests/install-parts || true

# Into docs/images. Some of them: make screenshots PICTURES="desk diff"
screenshots: $(VENV)/installed-dev parts
	@$(BIN)/python -m docs.pictures $(PICTURES)

# The initial migration anew from the models; only until the first release.
migration:
	@$(BIN)/python migrations/initial.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "reviewqueue needs Python 3.11 to 3.13; make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; install it, for example: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt constraints.txt | $(BIN)/python
	@echo "installing what reviewqueue needs …"
	@$(PIP) --requirement requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements.txt requirements-dev.txt constraints.txt | $(BIN)/python
	@echo "installing what the tests need …"
	@$(PIP) --requirement requirements.txt --requirement requirements-dev.txt
	@touch $@ $(VENV)/installed
