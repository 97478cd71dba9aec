# SeaweedFS (Apache-2.0) as the S3 store, its data folder owned by a user of its own.
FROM chrislusf/seaweedfs:3.99
RUN mkdir -p /data && chown 10002:10002 /data
USER 10002:10002
HEALTHCHECK --interval=10s --timeout=5s --retries=12 --start-period=30s \
  CMD ["wget", "--quiet", "--tries=1", "--output-document=/dev/null", "http://127.0.0.1:8333/healthz"]
ENTRYPOINT ["/usr/bin/weed"]
