# fastqwen as a client of servers: no torch, no shell of root, some 400 MB.
#
#     docker build -f docker/client.Dockerfile -t fastqwen-client .
#     docker run --rm --network host -v "$PWD:/work" -v fastqwen-cache:/cache fastqwen-client \
#         summarize images -o s.jsonl --endpoint http://127.0.0.1:8081
FROM python:3.13-slim AS build
COPY pyproject.toml constraints.txt README.md LICENSE cli.py /source/
COPY cache /source/cache
COPY tgi_stack /source/tgi_stack
RUN python -m venv /opt/fastqwen && /opt/fastqwen/bin/pip install --no-cache-dir -c /source/constraints.txt /source

FROM python:3.13-slim
COPY --from=build /opt/fastqwen /opt/fastqwen
RUN useradd --uid 10001 --create-home fastqwen && install -d -o fastqwen -g fastqwen -m 0700 /cache
ENV PATH=/opt/fastqwen/bin:$PATH \
    FASTQWEN_CACHE_DIR=/cache \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1
USER fastqwen
WORKDIR /work
ENTRYPOINT ["fastqwen"]
CMD ["--help"]
