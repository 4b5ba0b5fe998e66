# twelvex: DeepSeek-V4 over the OpenAI API.
#
#   docker build --target cpu  -t twelvex:cpu  .     any x86-64 or arm64 machine; answers with the embedded demo model
#   docker build --target cuda -t twelvex:cuda .     SM12x GPUs; needs the NVIDIA container toolkit to run
#
# Bases are build arguments, so that a mirror or a digest can be put in their place. Everything npm installs comes from
# package-lock.json. The compilers stay in the build stages.
ARG NODE_IMAGE=docker.io/library/node:20.20.2-bookworm-slim
ARG CUDA_BUILD_IMAGE=docker.io/nvidia/cuda:13.0.1-devel-ubuntu22.04

# ---------------------------------------------------------------- Node, for stages whose base has none
FROM ${NODE_IMAGE} AS node

# ---------------------------------------------------------------- build: CPU
FROM node AS build-cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates cmake g++ make ninja-build \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY native native
COPY engine engine
COPY server server
ENV TWELVEX_CUDA=0
RUN npm run build
COPY docker/prune.mjs docker/healthcheck.mjs docker/
RUN npm prune --omit=dev --no-audit --no-fund && node docker/prune.mjs node_modules

# ---------------------------------------------------------------- build: CUDA
# Ubuntu 22.04's C library is older than the runtime's, so the addon loads there.
FROM ${CUDA_BUILD_IMAGE} AS build-cuda
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates cmake g++ make ninja-build \
 && rm -rf /var/lib/apt/lists/*
COPY --from=node /usr/local /usr/local
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY native native
COPY engine engine
COPY server server
ARG CUDA_ARCHS="120a;121a"
ENV TWELVEX_CUDA=1 TWELVEX_CUDA_ARCHS=${CUDA_ARCHS}
RUN npm run build
COPY docker/prune.mjs docker/healthcheck.mjs docker/
RUN npm prune --omit=dev --no-audit --no-fund && node docker/prune.mjs node_modules
# NCCL is loaded at run time when it is there: all-reduce of large messages between two GPUs. The addon links nothing of it.
RUN mkdir -p /nccl && cp -L /usr/lib/*-linux-gnu/libnccl.so.2 /nccl/

# ---------------------------------------------------------------- runtime
# Node is process 1: it handles SIGTERM (drain, then exit 0) and starts no children that could become orphans.
FROM node AS runtime
LABEL org.opencontainers.image.title="twelvex" \
      org.opencontainers.image.description="DeepSeek-V4 over the OpenAI API from one Node.js process" \
      org.opencontainers.image.licenses="MIT"
RUN rm -rf /usr/local/lib/node_modules /usr/local/include /usr/local/share/doc /opt/yarn* \
           /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin twelvex \
 && install -d -o twelvex -g twelvex /models
WORKDIR /app
COPY package.json LICENSE ./
COPY server/playground/*.html server/playground/*.css server/playground/*.js server/playground/
COPY models/demo/config.json models/demo/generation_config.json models/demo/model.safetensors \
     models/demo/tokenizer.json models/demo/tokenizer_config.json models/demo/README.md models/demo/
# The root file system is only read; downloads go to the volume.
ENV NODE_ENV=production TWELVEX_HOST=0.0.0.0 TWELVEX_PORT=8000 HF_HOME=/models/huggingface
VOLUME /models
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=1h --retries=3 CMD ["node", "docker/healthcheck.mjs"]
ENTRYPOINT ["node", "dist/server/main.js"]
CMD ["serve"]

FROM runtime AS cpu
COPY --from=build-cpu /app/node_modules node_modules
COPY --from=build-cpu /app/dist/server dist/server
COPY --from=build-cpu /app/dist/engine dist/engine
COPY --from=build-cpu /app/native/build/Release/twelvex.node native/build/Release/twelvex.node
COPY --from=build-cpu /app/docker/healthcheck.mjs docker/

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /nccl /usr/lib/nccl
ENV LD_LIBRARY_PATH=/usr/lib/nccl
COPY --from=build-cuda /app/node_modules node_modules
COPY --from=build-cuda /app/dist/server dist/server
COPY --from=build-cuda /app/dist/engine dist/engine
COPY --from=build-cuda /app/native/build/Release/twelvex.node native/build/Release/twelvex.node
COPY --from=build-cuda /app/docker/healthcheck.mjs docker/
# `cuda` serves the demo model on the CPU when it is started without arguments; give --device cuda --model DIR for the real one.

# `docker build .` without a target gives the image that runs anywhere.
FROM cpu
