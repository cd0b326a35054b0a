# syntax=docker/dockerfile:1
# Two images: `docker build .` for CPUs, without libtorch, and `docker build --target gpu .` for NVIDIA GPUs.
ARG RUST_IMAGE=rust:1-bookworm
ARG RUNTIME_IMAGE=debian:12-slim

FROM ${RUST_IMAGE} AS source
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ nasm python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV HEADSWAP_CACHE=/opt/headswap

FROM source AS build-cpu
COPY . .
RUN scripts/setup && cargo build --release --locked --no-default-features

FROM source AS build-gpu
# libtorch first: it changes least.
COPY scripts/setup scripts/setup
RUN scripts/setup libtorch
COPY . .
RUN scripts/setup libtorch && cargo build --release --locked

FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Headswap. This software is based in part on the work of the Independent JPEG Group."
ENV HEADSWAP_LISTEN=0.0.0.0:50051 \
    HEADSWAP_ADMIN_LISTEN=0.0.0.0:50052 \
    HEADSWAP_HTTP_LISTEN=0.0.0.0:9090 \
    HEADSWAP_HEADS_DIR=/var/lib/headswap/heads \
    HEADSWAP_LOG_FORMAT=json
RUN install -d -o 65532 -g 65532 /var/lib/headswap/heads /var/lib/headswap/weights
EXPOSE 50051 50052 9090
ENTRYPOINT ["headswap"]
CMD ["serve"]

FROM runtime AS gpu
# PyTorch's wheel has libtorch with CUDA, cuDNN and cuBLAS.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 libgcc-s1 python3 python3-pip \
 && python3 -m pip install --no-cache-dir --target /usr/local/lib/headswap-cuda torch==2.11.0 \
 && apt-get purge -y python3-pip && apt-get autoremove -y && rm -rf /var/lib/apt/lists/*
COPY --from=build-gpu /src/target/release/headswap /src/target/release/headswap-torch /usr/local/bin/
ENV LD_LIBRARY_PATH=/usr/local/lib/headswap-cuda/torch/lib:/usr/local/lib/headswap-cuda/nvidia/cu13/lib \
    HEADSWAP_DEVICE=cuda
USER 65532:65532

# The last stage is what `docker build .` makes.
FROM runtime
COPY --from=build-cpu /src/target/release/headswap /usr/local/bin/headswap
USER 65532:65532
