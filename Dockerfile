# An image that pretrains: the checkout with its .venv. Loader processes hand batches over in shared memory: give the container
# room for it, e.g. docker run --gpus all --shm-size=8g -v /data:/data IMAGE pretrain data.shards=/data/shards run.dir=/data/run
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/data2vec
# All that .venv and the commands need; .dockerignore keeps the rest out.
COPY run.sh pyproject.toml ./
COPY configs configs
COPY data_shards data_shards
COPY models models
COPY pretrain pretrain
RUN ./run.sh setup
ENTRYPOINT ["./run.sh"]
CMD ["pretrain", "--help"]
