# Training on GPUs: every stage, as `pass-recon train` and torchrun run it.
#
#   podman build -f docker/training.Dockerfile --format docker -t pass-training:cuda .
#   podman run --device nvidia.com/gpu=all --read-only --tmpfs /tmp -v DATA:/data:ro -v RUNS:/runs pass-training:cuda \
#     train all --config training/recipes/shipped.yaml --data /data -o /runs
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PASS for Gadgetron: training" \
      org.opencontainers.image.description="Trains bundles. Research software, not for clinical use." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/pass/bin:$PATH
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/pass && python3 -m venv /opt/build \
    && groupadd --gid 10001 pass && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp pass \
    && mkdir /data /runs && chown pass:pass /runs
WORKDIR /src
COPY docker docker
RUN pip install --no-deps --require-hashes -r docker/locks/training-cuda.txt \
    && /opt/build/bin/pip install --require-hashes -r docker/locks/build.txt
COPY . .
RUN SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /tmp/wheel . \
    && pip install --no-deps /tmp/wheel/*.whl && rm -rf /tmp/wheel /opt/build
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME ["/data", "/runs"]
ENTRYPOINT ["pass-recon"]
CMD ["train", "--help"]
