# The demo with CPU builds of torch, which spare the 4 GB of CUDA libraries:
#   docker build --tag morphomil .
#   docker run --rm --volume "$PWD/demo:/work/demo" morphomil
# One's own slides:
#   docker run --rm --volume "$PWD:/work" morphomil run project
FROM python:3.11-slim

# libgomp: OpenMP for scikit-learn and torch.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY morphomil morphomil
COPY cli cli
COPY figures figures
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir .

# Measuring code is compiled at first use and cached; any user may write there.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["morphomil"]
CMD ["demo", "--out", "demo"]
