# `make demo` and `make test` need nothing but Python 3.11 or newer and make: they build .venv when it is missing.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test check check-attacks check-openclip install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(VENV)/bin/titer demo --out runs/demo

check: install
	$(VENV)/bin/ruff check src tests benchmarks scripts
	$(VENV)/bin/ruff format --check src tests benchmarks scripts
	$(VENV)/bin/mypy

test: check
	$(VENV)/bin/python -m pytest

# torchattacks pins what the package does not want and names torchvision, which it needs for nothing here: hence its own environment.
REFERENCE := $(VENV)-attacks
check-attacks:
	test -x $(REFERENCE)/bin/python || $(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . requests tqdm
	$(REFERENCE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1
	OMP_NUM_THREADS=1 $(REFERENCE)/bin/python benchmarks/attacks_reference.py

# open_clip and timm ask for torchvision, whose PyPI build wants another torch; without dependencies they keep the pinned one.
OPENCLIP := $(VENV)-openclip
check-openclip:
	test -x $(OPENCLIP)/bin/python || $(PYTHON) -m venv $(OPENCLIP)
	$(OPENCLIP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . regex
	$(OPENCLIP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		open_clip_torch==3.3.0 timm==1.0.31 torchvision==0.28.0 ftfy==6.3.1 wcwidth==0.9.4
	HF_HUB_OFFLINE=1 $(OPENCLIP)/bin/python benchmarks/openclip_reference.py

clean:
	rm -rf $(VENV) $(REFERENCE) $(OPENCLIP) .mypy_cache .ruff_cache .pytest_cache build src/*.egg-info
