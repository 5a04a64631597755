# Everything from a fresh clone on a bare machine: each target makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The public volumes that the shipped bundles were trained on, see the README.
OPEN_MS ?= ../shared/data/open_ms
RUNS ?= runs

.PHONY: demo test test-all test-oldest lint fuzz soak bench bundles docs peers images locks dist licences audit sbom clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## scan and reconstruct a simulated patient in a closed loop
	$(BIN)/pass-recon demo

test: $(VENV)/.installed  ## the suite without slow, GPU, network and Gadgetron tests
	$(BIN)/pytest -n 2

test-all: $(VENV)/.installed  ## slow tests too; the others where the machine has what they need
	$(BIN)/pytest --slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(VENV)/.installed  ## a million spoilt inputs for whatever reads bytes of others
	$(BIN)/python -m tests.robustness.fuzz

soak: $(VENV)/.installed  ## a thousand scans through a bad network, with processes killed meanwhile
	$(BIN)/python -m tests.robustness.soak

bench: $(VENV)/.installed  ## each timing as a ratio to a peer measured in the same run
	$(BIN)/python -m tests.benchmarks

bundles: $(VENV)/.installed  ## prepare data, train every stage, make the bundles; goes on where it stopped
	BIN=$(BIN) OPEN_MS=$(OPEN_MS) RUNS=$(RUNS) bash training/recipes/shipped.sh

docs: $(VENV)/.installed  ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict

OLDEST_PYTHON ?= python3.10
OLDEST := .venv-oldest
test-oldest:  ## the chain's tests with the oldest versions that pyproject.toml allows
	bash tests/release/oldest.sh $(OLDEST) $(OLDEST_PYTHON)

images: $(VENV)/.installed  ## the image of the embedded server, built and run; STAND_INS=1 where no image registry can be reached
	bash docker/build.sh server
	$(BIN)/pytest --images tests/images

locks: $(VENV)/.installed  ## the lock files of the images, anew
	$(BIN)/pip install --quiet uv
	UV=$(BIN)/uv bash docker/lock.sh

licences: $(VENV)/.installed  ## licences of all that is installed with all extras, in docs/licences.md
	$(BIN)/pip install --quiet '.[clip,train,fuzz]'
	$(BIN)/python -m tests.release.licences

audit: $(VENV)/.installed  ## known weaknesses of what is installed; needs a registry that tells of them
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --local --skip-editable

dist: $(VENV)/.installed  ## wheel and sdist, in dist/
	$(BIN)/python -m build --outdir dist .

sbom: $(VENV)/.installed  ## CycloneDX bills of materials of the images, in dist/
	mkdir -p dist
	for lock in server server-cuda gadgetron training-cuda; do $(BIN)/python -m cyclonedx_py requirements docker/locks/$$lock.txt -o dist/sbom-$$lock.json; done

peers:  ## programs of others that tests compare with, from Debian's packages; tests skip with a reason where they are missing
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bart ismrmrd-tools chromium fonts-dejavu-core dcm2niix dcmtk dicom3tools orthanc haproxy zsh fish golang-go golang-github-masterminds-sprig-dev golang-k8s-sigs-yaml-dev stunnel4

clean:
	rm -rf $(VENV) $(OLDEST) demo_output site dist
