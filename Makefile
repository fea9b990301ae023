# make demo       the main job on simulated instruments; prints where the data landed
# make test       everything that runs in a few minutes, lint and types included
# make test-slow  long torture and heavy validators
# make torture    only what kills, cuts the power and breaks the disk: all of it
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow torture install tools clean

demo: install
	@sh tests/system-packages.sh mosquitto
	$(BIN)/edge-agent demo $(DEMO)

test: install tools
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow" -n 4 --dist loadfile --no-loadscope-reorder --durations 15

test-slow: install tools
	@sh tests/system-packages.sh postgresql
	$(BIN)/pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --timeout 1500 --durations 15
	$(BIN)/pytest tests/seal -q --cov edge_agent.seal --cov-branch --cov-fail-under 100 --cov-report term-missing:skip-covered

torture: install tools
	$(BIN)/pytest tests/torture tests/storage tests/record/test_crash.py tests/record/test_model.py tests/record/test_every_call.py --timeout 14400

install: $(VENV)/.installed

tools:
	@sh tests/system-packages.sh age faketime mosquitto openssl ser2net strace systemd

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("edge-agent needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || sh tests/system-packages.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group test
	@touch $@

clean:
	rm -rf $(VENV) .test-tools build dist *.egg-info
