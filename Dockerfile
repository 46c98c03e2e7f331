# syntax=docker/dockerfile:1

FROM rust:1-slim-bookworm AS build
# The image has a C compiler; jemalloc's build wants make too.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --locked --release --bin pointsman

FROM debian:bookworm-slim
# The system's authorities verify backends that have no `ca` of their own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/pointsman --create-home \
        --shell /usr/sbin/nologin pointsman
COPY --from=build /build/target/release/pointsman /usr/local/bin/pointsman
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/pointsman/
USER pointsman
# The store. Configuration and certificates are mounted to /etc/pointsman, readable by
# user 10001. Ports below 1024 are open to it in containers by the kernel setting
# net.ipv4.ip_unprivileged_port_start=0, Docker's default.
VOLUME /var/lib/pointsman
EXPOSE 143 993 9143
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/pointsman"]
CMD ["serve", "--config", "/etc/pointsman/pointsman.yaml"]
