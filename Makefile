# Everything happens in .venv, which is made on first use. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SITE := _build/.site

# Progress bars would end up in the notebooks' outputs.
book test test-digits notebooks publish slides test-published: export TQDM_DISABLE := 1
# Torch's threads spin while they wait. On a busy machine that makes small steps twenty times slower.
book test test-digits notebooks publish slides test-published: export OMP_WAIT_POLICY := PASSIVE

.PHONY: help book test test-digits test-portable test-published federated bench lab notebooks publish slides clean
.DELETE_ON_ERROR:

help:
	@echo "make book            build the site: _build/html/index.html"
	@echo "make test            lint, then run the tests and every chapter"
	@echo "make test-portable   tests and chapters with other kernels, threads and orders of tests"
	@echo "make test-digits     run the chapters without MNIST, on scikit-learn's small digits"
	@echo "make test-published  run the published notebooks in fresh environments, old and new"
	@echo "make notebooks       execute book/text/*.md into book/*.ipynb"
	@echo "make publish         write the site and its notebooks for Colab: _build/publish"
	@echo "make slides          slides of each chapter's figures and claims: _build/slides"
	@echo "make federated       federated averaging under Flower, simulated on this machine"
	@echo "make lab             open the chapters in JupyterLab"
	@echo "make bench           run the benchmarks, one after the other"
	@echo "make clean           remove the site and the environment"

book: $(SITE)

test: $(INSTALLED) $(SITE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/notebooks.py --check
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 120 book tests

# Other kernels, threads and orders of tests than this machine would choose: tools/portable.py.
test-portable: $(INSTALLED)
	$(BIN)/python tools/portable.py $(CELLS)

# The chapters as whoever cannot download MNIST has them; in /proc nobody can write it.
test-digits: $(INSTALLED)
	OPTCORE_DATA=/proc/without-mnist $(BIN)/python -m pytest --nbval --nbval-current-env \
		--nbval-cell-timeout 300 book

# As on a notebook server: tools/published.py. It downloads PyTorch twice.
test-published: $(SITE)
	$(BIN)/python tools/published.py $(CHAPTERS)

# make federated SETTINGS="model=net partition=iid rounds=20": examples/federated.
federated: $(INSTALLED)
	$(BIN)/python tools/federated.py $(SETTINGS)

bench: $(INSTALLED)
	status=0; for name in optimizers muon variance_reduction federated course; do \
		$(BIN)/python benchmarks/$$name.py || status=1; done; exit $$status

lab: $(INSTALLED)
	$(BIN)/jupyter lab book

notebooks: $(INSTALLED)
	$(BIN)/python tools/notebooks.py

# The notebooks install optcore from the commit that is checked out: tools/publish.py.
publish: $(SITE)
	$(BIN)/python tools/publish.py

slides: $(SITE)
	$(BIN)/python tools/slides.py

clean:
	rm -rf _build .venv

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	touch $@

# What the site is made of: a change in any of these files builds it again, from nothing, since
# Sphinx does not see that a chapter depends on optcore.
SOURCES := _config.yml _toc.yml $(shell find book optcore -type f \
	-not -path '*/.*' -not -path '*/__pycache__/*' -not -path 'book/text/*')

$(SITE): $(INSTALLED) $(SOURCES)
	rm -rf _build
	@# On a new machine these two announce themselves once, which must not end up on a page.
	$(BIN)/python -c "import matplotlib.pyplot, optcore.data; optcore.data.mnist_available()"
	$(BIN)/jupyter-book build . -W -n --keep-going
	touch $@
