# syntax=docker/dockerfile:1
# Two images from one binary: `docker build .` for the CPU, `docker build --target gpu .` for NVIDIA GPUs.
ARG RUST_IMAGE=rust:1-bookworm
ARG RUNTIME_IMAGE=debian:12-slim

FROM ${RUST_IMAGE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ nasm python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# libtorch first: it changes least.
COPY scripts/setup scripts/setup
RUN HEADSWAP_CACHE=/opt/headswap scripts/setup
COPY . .
RUN HEADSWAP_CACHE=/opt/headswap scripts/setup && cargo build --release --locked
# Of libtorch, what a CPU needs, in the wheels' own layout: libtorch_cpu.so finds its neighbours by relative paths.
RUN mkdir -p /out/torch/lib /out/nvidia/cu13/lib \
 && cp -L libtorch/torch/lib/libtorch_cpu.so libtorch/torch/lib/libc10.so libtorch/torch/lib/libgomp.so.1 /out/torch/lib/ \
 && cp -L libtorch/nvidia/cu13/lib/libcudart.so.13 libtorch/nvidia/cu13/lib/libcupti.so.13 /out/nvidia/cu13/lib/

FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Headswap. This software is based in part on the work of the Independent JPEG Group."
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 libgcc-s1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out /usr/local/lib/headswap
COPY --from=build /src/target/release/headswap /usr/local/bin/headswap
ENV LD_LIBRARY_PATH=/usr/local/lib/headswap/torch/lib \
    HEADSWAP_LISTEN=0.0.0.0:50051 \
    HEADSWAP_ADMIN_LISTEN=0.0.0.0:50052 \
    HEADSWAP_HTTP_LISTEN=0.0.0.0:9090 \
    HEADSWAP_HEADS_DIR=/var/lib/headswap/heads \
    HEADSWAP_LOG_FORMAT=json
RUN install -d -o 65532 -g 65532 /var/lib/headswap/heads /var/lib/headswap/weights
USER 65532:65532
EXPOSE 50051 50052 9090
ENTRYPOINT ["headswap"]
CMD ["serve"]

FROM runtime AS gpu
USER root
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-pip \
 && python3 -m pip install --no-cache-dir --target /usr/local/lib/headswap-cuda torch==2.11.0 \
 && apt-get purge -y python3-pip && apt-get autoremove -y && rm -rf /var/lib/apt/lists/*
ENV LD_LIBRARY_PATH=/usr/local/lib/headswap-cuda/torch/lib \
    HEADSWAP_DEVICE=cuda
USER 65532:65532

# The last stage is what `docker build .` makes.
FROM runtime
