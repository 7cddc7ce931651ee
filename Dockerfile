# syntax=docker/dockerfile:1
# The image of every role: docker build -t newsloom . ; docker run newsloom ingest
#
# Built from requirements.lock with hashes. The last stage has no pip, no compiler, no write access to
# its own files, and runs as a user that is nobody else. A release pins the base image by digest:
# --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock pyproject.toml LICENSE README.md ./
COPY ops/image/install ops/image/install
COPY service service
COPY migrations migrations
RUN ops/image/install /opt/newsloom

FROM ${PYTHON_IMAGE}
# The base image's own pip: nothing here installs anything.
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore setuptools wheel pip \
    && rm -rf /usr/local/lib/python3.11/ensurepip
COPY --from=build /opt/newsloom /opt/newsloom
ENV PATH=/opt/newsloom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NEWSLOOM_ADMIN_HOST=0.0.0.0 \
    NEWSLOOM_LOG_FORMAT=json
# Numeric, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /tmp
EXPOSE 9108
STOPSIGNAL SIGTERM
# Alive, not ready: a database that is away is no reason to restart.
HEALTHCHECK --interval=10s --timeout=5s --start-period=40s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9108/healthz', timeout=4)"]
ENTRYPOINT ["newsloom"]
CMD ["run"]
