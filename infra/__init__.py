"""The dev launcher: real Apache Kafka and Redis on this machine, with no Docker and no root.

`python -m infra up` is its command; tests that restart single nodes may use `infra.kafka` and
`infra.redis` directly. Nothing else imports this package.
"""
