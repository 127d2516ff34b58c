# One image for the head, the workers, the driver and KubeRay's submitter, with CUDA or without:
#
#   docker build --target gpu --tag REGISTRY/dsvl-pipeline:0.1.0 .
#   docker build --target cpu --tag REGISTRY/dsvl-pipeline:0.1.0-cpu .
#
# Weights are mounted, or fetched into a mounted cache, at /models; they are not in it, nor is any
# secret. `make image-check` takes the steps of the CPU target without Docker, and tries the result.

# Python comes with it, so a node's security updates are one line: a new date and digest.
FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171 AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The base decides Debian's versions, which leave the mirrors when they are mended.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/ldconfig/aux-cache
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HF_HOME=/models/huggingface \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1
# What is stopped (`ray job stop`, a deleted RayJob) has a minute to commit; Ray would give it 3 s.
ENV RAY_JOB_STOP_WAIT_TIME_S=60
# A login shell, which the operator can be told to use, makes a PATH of its own.
RUN python3 -m venv /opt/venv \
    && echo "PATH=$PATH" > /etc/profile.d/venv.sh \
    && useradd --uid 1000 --user-group --create-home --shell /bin/bash dsvl \
    && install --directory --owner dsvl --group dsvl /models
WORKDIR /app

FROM base AS wheel
COPY requirements/base.txt requirements/
RUN pip install --no-deps "$(grep ^setuptools= requirements/base.txt)"
COPY LICENSE README.md pyproject.toml setup.py ./
COPY configs configs
COPY dsvl_pipeline dsvl_pipeline
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# A layer each, what changes least first: torch, the other libraries, this package.
FROM base AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,source=requirements/torch-cpu.txt,target=/requirements.txt \
    pip install --no-deps --extra-index-url "$TORCH_INDEX" --requirement /requirements.txt
# hadolint ignore=DL3059
RUN --mount=type=bind,source=requirements/base.txt,target=/requirements.txt \
    pip install --no-deps --requirement /requirements.txt
# hadolint ignore=DL3059
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps /wheels/*.whl
COPY jobs jobs
COPY configs configs
USER 1000:1000
CMD ["dsvl", "--help"]

FROM base AS gpu
# Triton builds the launcher of each kernel with a C compiler. The driver is the node's own.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/ldconfig/aux-cache
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,source=requirements/torch-gpu.txt,target=/requirements.txt \
    pip install --no-deps --requirement /requirements.txt
# hadolint ignore=DL3059
RUN --mount=type=bind,source=requirements/base.txt,target=/requirements.txt \
    pip install --no-deps --requirement /requirements.txt
# hadolint ignore=DL3059
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps /wheels/*.whl
COPY jobs jobs
COPY configs configs
USER 1000:1000
CMD ["dsvl", "--help"]
