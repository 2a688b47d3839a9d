# The kit in a container, for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 -t cloud-backup-kit .
# Every dependency is a wheel that constraints/runtime.txt pins by hash, so no stage needs a compiler.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/cbk
WORKDIR /src
COPY constraints/runtime.txt constraints/
RUN /opt/cbk/bin/pip install --require-hashes --only-binary :all: -r constraints/runtime.txt
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY cbk cbk
COPY appside/cbk_app appside/cbk_app
RUN /opt/cbk/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
# The copies belong to this user and group: their numbers are fixed, so that they still do after an update of the image.
RUN groupadd --gid 10001 cbk \
    && useradd --uid 10001 --gid cbk --no-log-init --home-dir /var/lib/cbk --create-home --shell /usr/sbin/nologin cbk \
    && install -d -o cbk -g cbk /backups
COPY --from=build /opt/cbk /opt/cbk
# celery reads celeryconfig.py from the working folder; mount another one over it to override the kit's configuration.
COPY celeryconfig.py /var/lib/cbk/
ENV PATH=/opt/cbk/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/cbk
USER cbk
# `cbk …` and `celery -A cbk …` are run as they are, without a shell around them, so that SIGTERM reaches them; `docker run --init` hands it on.
CMD ["celery", "-A", "cbk", "worker"]
