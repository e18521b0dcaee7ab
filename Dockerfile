# One image for API, trainer, grader, beat and migrations. `--build-arg TORCH=torch==2.13.0` chooses another torch.
FROM python:3.12-slim-bookworm

ARG TORCH="torch==2.13.0"
ENV PYTHONUNBUFFERED=1
WORKDIR /app
RUN useradd --create-home grape && mkdir -p /data/artifacts /data/models && chown -R grape /data
COPY pyproject.toml constraints.txt README.md ./
COPY service service
COPY workers workers
COPY migrations migrations
COPY examples examples
RUN pip install --no-cache-dir --constraint constraints.txt uv \
    && uv pip install --system --no-cache --compile-bytecode --constraint constraints.txt "$TORCH" '.[server,s3,train]'
USER grape
CMD ["uvicorn", "--factory", "service.app:create_app", "--host", "0.0.0.0", "--port", "8000"]
