# Needs make and one Python >= 3.11, nothing else; everything it installs goes into .venv.

# The first that is new enough; name another with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off
# One more than two cores have, for much of it waits; `make test WORKERS=0` runs in one process (for a debugger).
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup setup-torture demo test torture histories lint types docs bench bench-save bench-compare soak peers check
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1 \2/p' $(MAKEFILE_LIST) | \
	while read -r make name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: $(VENV)/ready-dev ## make .venv and install everything that developing needs
	@:

demo: $(VENV)/ready-demo ## four processes share sessions and one is killed: was a word lost? (DATA=chats.jsonl or a folder)
	@$(BIN)/python -m bamboo_sessions demo $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(VENV)/ready-dev ## run the tests (ARGS="-k merge" chooses some)
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

setup-torture: $(VENV)/ready-dev ## install what `make torture` needs besides Python, from Debian packages
	@missing="$$($(BIN)/python -m tests.torture.needs packages)"; test -z "$$missing" || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing >/dev/null; \
	else echo "not installed; as root on Debian and Ubuntu: apt-get install $$missing"; fi
	@$(BIN)/python -m tests.torture.needs

torture: $(VENV)/ready-dev ## kill writers and fail them at every call, some minutes (ARGS="-k fold"; first make setup-torture)
	@$(BIN)/python -m pytest tests/torture -n 2 --dist worksteal $(ARGS)

histories: $(VENV)/ready-dev ## 400,000 operations by many writers, judged as a whole, some minutes (ARGS="--seed 7 --factory memory")
	@$(BIN)/python -m tests.histories $(ARGS)

lint: $(VENV)/ready-dev ## look for mistakes and untidiness with ruff
	@$(BIN)/ruff check .

types: $(VENV)/ready-dev ## check the types with mypy, strictly
	@$(BIN)/mypy

docs: $(VENV)/ready-dev ## build the pages into .docs/html; a link that leads nowhere fails
	@$(BIN)/python -m sphinx -E -W --keep-going -n -q -d .docs/doctrees docs .docs/html
	@echo "built .docs/html/index.html"

bench: $(VENV)/ready-dev ## measure every goal against its baseline, some minutes (ARGS="-k load_merged" chooses rows)
	@$(BIN)/python -m tests.benchmarks run $(ARGS)

bench-save: $(VENV)/ready-dev ## the same, kept as NAME=before for bench-compare
	@test -n "$(NAME)" || { echo "give the run a name: make bench-save NAME=before" >&2; exit 1; }
	@$(BIN)/python -m tests.benchmarks run --save "$(NAME)" $(ARGS)

bench-compare: $(VENV)/ready-dev ## what became slower between two kept runs (A=before B=after, or the last two)
	@$(BIN)/python -m tests.benchmarks compare $(A) $(B)

soak: $(VENV)/ready-dev ## a million operations over 100,000 ids, some minutes: does anything grow? (ARGS="--seed 7")
	@$(BIN)/python -m tests.soak $(ARGS)

peers: $(VENV)/ready-dev ## other stores under the same race and power cut, a quarter of an hour (ARGS="--only agno --cuts 3 --markdown")
	@$(BIN)/python -m tests.peers $(ARGS)

check: lint types docs test ## all of these: what has to pass before a change is done

# A stamp for each set of packages: a second call costs nothing until pyproject.toml changes.
$(VENV)/ready-venv:
	@test -n "$(PYTHON)" || { echo "bamboo_sessions needs Python 3.11 or newer, and none is on PATH; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bamboo_sessions needs Python 3.11 or newer; $(PYTHON) is not; name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/ready-demo: $(VENV)/ready-venv pyproject.toml
	@echo "installing bamboo_sessions with what the demo needs"
	@$(PIP) --editable '.[cli]'
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready-venv pyproject.toml
	@echo "installing bamboo_sessions with what its development needs"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/ready-demo
