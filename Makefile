# Needs Python 3.11 or newer, pip and make; everything else goes into .venv.
# torch's wheel is large: 200 MB for CPU, several GB with CUDA (PyPI's default on Linux). The first install takes
# minutes on a slow line. For the CPU build set PIP_EXTRA_INDEX_URL to the CPU index that pytorch.org names.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SERVED ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Whatever the shell says: the suite starts hundreds of processes, and each would compile half of fedmb again.
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.PHONY: help install demo test kafka soak compose-test bench-step bench-loader bench-kafka bench-replay bench-aggregate bench-byzantine bench-round bench-wire cartpole lint types format reference wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv with fedmb and its development tools

demo: $(VENV)/.runtime ## train on this machine: one server, four clients (ARGS="--rounds 5")
	@$(BIN)/fedmb simulate $(ARGS)

test: install ## lint, types and tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

kafka: install ## Apache Kafka on 127.0.0.1:9092 until Ctrl-C (ARGS="--port 9093")
	@$(BIN)/python tests/kafka_broker.py $(ARGS)

# What the suite does some times, many times; each number is one that the tests are told by its name.
SOAK := FEDMB_KILLS=1000 FEDMB_FUZZ=100000 FEDMB_FLOOD_SECONDS=600 FEDMB_FREEZE_SECONDS=120 FEDMB_CUTS=1000 FEDMB_TEARS=10000 FEDMB_FEDERATION_KILLS=100

soak: install ## a thousand kills of everything, broken records, outages and floods (hours; ARGS="-k outages" for some)
	@$(SOAK) $(BIN)/python -m pytest -m soak $(ARGS)

# An engine, where none runs, and base images come from Debian: as root, with 12 GB of disk, half an hour at first.
compose-test: install ## docker-compose.yml on a real engine: killed, finished, gone on with (root; nothing is pulled)
	@$(BIN)/python -m pytest -m compose -x $(ARGS) tests/deploy

bench-step: install ## our step beside a bare loop, Accelerate, Lightning and Keras
	@$(BIN)/python -m pip install --quiet -e '.[bench]'
	@$(BIN)/python benchmarks/step.py $(ARGS)

bench-loader: install ## our table beside torch's DataLoader
	@$(BIN)/python benchmarks/loader.py $(ARGS)

bench-kafka: install ## records of a real broker into tensors: ours, bare clients, TensorFlow I/O, Quix Streams
	@$(BIN)/python -m pip install --quiet 'aiokafka>=0.12' 'confluent-kafka>=2.6'
	@test -x build/kafka-peers/bin/python || $(BIN)/python -m venv build/kafka-peers
	@build/kafka-peers/bin/python -m pip install --quiet 'tensorflow-cpu==2.16.*' 'tensorflow-io==0.37.1' 'numpy<2' quixstreams \
	    && peers='--peers build/kafka-peers/bin/python' || echo "peers left out: they do not install here" >&2; \
	$(BIN)/python benchmarks/kafka.py $${peers:-} $(ARGS)

# Each in an environment of its own, since their needs clash; torch and what else fits is shared with ours.
bench-replay: install ## replay buffers: ours and seven others, then ours served (ARGS="--small", SERVED="--quick")
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	peer() { \
	    env=build/replay-peers-$$1; test -x $$env/bin/python || $(BIN)/python -m venv $$env; \
	    if [ "$$2" = shared ]; then \
	        echo "$$site" > "$$($$env/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"; fi; \
	    $$env/bin/python -m pip install --quiet --prefer-binary "$$3" \
	        || { rm -rf $$env; echo "$$1 left out: it does not install here" >&2; }; }; \
	peer cpprb shared cpprb==11.0.0; peer tianshou shared tianshou==2.0.1; peer torchrl shared torchrl==0.14.1; \
	peer flashbax alone flashbax==0.1.3; peer rllib shared 'ray[rllib]==2.60.0'; \
	peer reverb alone 'dm-reverb[tensorflow]==0.14.0'; \
	$(BIN)/python benchmarks/replay.py $(ARGS); \
	$(BIN)/python benchmarks/replay_served.py $(SERVED) \
	    $$(test -x build/replay-peers-reverb/bin/python && echo --reverb build/replay-peers-reverb/bin/python); \
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	    $(BIN)/python benchmarks/replay_device.py; fi

bench-round: install ## a deployed round on loopback: Flower's own FedAvg app and ours, and the trainer's duty cycle
	@$(BIN)/python benchmarks/round.py $(ARGS)

bench-wire: install ## a model into bytes and back: ours, Flower's, pickle and safetensors
	@$(BIN)/python benchmarks/wire.py $(ARGS)

bench-aggregate: install ## one model of many: ours, Flower's FedAvg and a plain sum; time, then memory
	@$(BIN)/python benchmarks/aggregate.py $(ARGS)
	@$(BIN)/python benchmarks/aggregate.py --sizes 1 --clients 1000 $(ARGS)
	@$(BIN)/python benchmarks/aggregate.py --memory --clients 10 40 $(ARGS)

bench-byzantine: install ## accuracy with two bad clients of ten, by attack and rule, Flower's own beside ours (half an hour)
	@$(BIN)/python benchmarks/byzantine.py $(ARGS)

cartpole: install ## federated Q-learning on CartPole until solved: as processes, then by sampler over five seeds
	@$(BIN)/python examples/cartpole/processes.py $(ARGS)
	@$(BIN)/python examples/cartpole/one_process.py --seeds 5

lint: install ## ruff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: install ## mypy, strict
	@$(BIN)/mypy

format: install ## put the code into ruff's form
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

reference: install ## write docs/reference/settings.md from the settings' classes
	@$(BIN)/python -m fedmb.settings.reference docs/reference/settings.md

wheel: install ## build dist/fedmb-*.whl
	@$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what can be made again, .venv too
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 may lack ensurepip; then the system's pip fills the empty environment.
$(BIN)/python:
	@python=$$(for candidate in python3.13 python3.12 python3.11 python3; do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        command -v $$candidate; break; fi; done); \
	if [ -z "$$python" ]; then \
	    echo "error: fedmb needs Python 3.11 or newer, found none on PATH" >&2; \
	    echo >&2; echo "hint: install python3.11 or newer, then run make again" >&2; exit 3; fi; \
	echo "using $$python"; \
	if ! $$python -m venv $(VENV) 2>/dev/null; then \
	    rm -rf $(VENV); \
	    $$python -m venv --without-pip $(VENV); \
	    for pip in "$$python -m pip" "python3 -m pip" pip3 pip none; do \
	        if $$pip --python $(BIN)/python install --quiet pip 2>/dev/null; then break; fi; done; \
	    if [ "$$pip" = none ]; then \
	        echo "error: $$python has neither ensurepip nor pip" >&2; \
	        echo >&2; echo "hint: install python3-venv or python3-pip, then run make again" >&2; exit 4; fi; fi

# Two stamps: the demo needs no development tools; installing those covers the demo.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing fedmb (torch's wheel is large) ..."
	@$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing fedmb and its development tools (torch's wheel is large) ..."
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(VENV)/.runtime $@
