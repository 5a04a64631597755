# The plugin on a Gadgetron image, with the resident process beside the server and the storage server on.
#
#   podman build -f docker/gadgetron.Dockerfile --format docker -t pass-gadgetron:cpu .
#   podman build -f docker/gadgetron.Dockerfile --format docker -t pass-gadgetron:cuda --build-arg DEVICE=cuda \
#     --build-arg GADGETRON_IMAGE=ghcr.io/gadgetron/gadgetron/gadgetron_ubuntu_rt_cuda:latest .
ARG GADGETRON_IMAGE=ghcr.io/gadgetron/gadgetron/gadgetron_ubuntu_rt_nocuda:latest
FROM ${GADGETRON_IMAGE}
ARG DEVICE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PASS for Gadgetron" \
      org.opencontainers.image.description="Anomaly-aware, patient-specific fast MRI. Research software, not for clinical use." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
USER 0:0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /tmp/pass
COPY . .
RUN sh docker/install_into_gadgetron.sh "$DEVICE" "$TORCH_INDEX" \
    && cp docker/gadgetron_entrypoint.sh /usr/local/bin/ && chmod 755 /usr/local/bin/gadgetron_entrypoint.sh \
    && rm -rf /tmp/pass && mkdir -p /bundles /storage && chown 10001:10001 /storage
WORKDIR /tmp
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001:10001
VOLUME ["/bundles", "/storage"]
EXPOSE 9002 9102
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9102/readyz', timeout=3)"]
# Published images start Gadgetron through a script that activates their environment; its variables are in the image.
ENTRYPOINT ["/usr/local/bin/gadgetron_entrypoint.sh"]
CMD ["--storage_address", "http://127.0.0.1:9112", "-D", "/storage"]
