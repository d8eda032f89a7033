# Tidemill as an image: built from this source, run as a user without rights.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libssl-dev zlib1g-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY config config
COPY benches benches
RUN cargo build --release --locked --bin tidemill

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 tidemill && mkdir -p /var/lib/tidemill && chown tidemill /var/lib/tidemill
COPY --from=build /src/target/release/tidemill /usr/local/bin/tidemill
COPY config/pipelines /pipelines
RUN chown -R tidemill /pipelines
ENV TIDEMILL_STATE_DIR=/var/lib/tidemill TIDEMILL_SERVE_ADDRESS=0.0.0.0:8080
USER tidemill
EXPOSE 8080
ENTRYPOINT ["tidemill"]
CMD ["--help"]
