# The embedded server with its resident process: no Gadgetron needed.
#
#   make images                                                            CPU
#   podman build -f docker/server.Dockerfile --format docker --build-arg DEVICE=cuda -t pass-server:cuda .
#
# Nothing is written at run time but /spool and /tmp: run it with --read-only --tmpfs /tmp. Own bundles come by a volume at
# /bundles, own configurations at /configs.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
ARG DEVICE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG VERSION=0.1.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/pass/bin:$PATH
RUN python3 -m venv /opt/pass && python3 -m venv /opt/build
WORKDIR /src
COPY docker/locks docker/locks
COPY docker/wheels docker/wheels
COPY docker/install_torch.sh docker/install_torch.sh
# What changes least comes first, so that a new version of the package costs no new download.
RUN sh docker/install_torch.sh "$DEVICE" "$TORCH_INDEX" server
RUN /opt/build/bin/pip install --require-hashes -r docker/locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY pass_recon pass_recon
COPY pass_recon_cli pass_recon_cli
COPY gadgets gadgets
COPY training training
COPY xml_configs xml_configs
RUN SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /tmp/wheel . \
    && pip install --no-deps /tmp/wheel/*.whl && pip check \
    && python -c "import pass_recon.pipeline, open_clip, gadgets.resident, skimage.metrics, highdicom, pynetdicom, prometheus_client" && pip uninstall --yes pip

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PASS for Gadgetron: embedded server" \
      org.opencontainers.image.description="Anomaly-aware, patient-specific fast MRI. Research software, not for clinical use." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* /usr/share/doc /usr/share/man /usr/share/locale \
    && groupadd --gid 10001 pass && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pass \
    && mkdir /bundles /configs /spool && chown pass:pass /spool && chmod 700 /spool
COPY --from=build /opt/pass /opt/pass
ENV PATH=/opt/pass/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER 10001:10001
WORKDIR /tmp
VOLUME ["/bundles", "/configs", "/spool"]
EXPOSE 9002 9102
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9102/healthz', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pass-recon"]
CMD ["serve", "--host", "0.0.0.0", "--configs", "/configs", "--resident", "--metrics-port", "9102", "--log-format", "json", "--drain-seconds", "60"]
