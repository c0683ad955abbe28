"""The dev launcher: real Apache Kafka and Redis on this machine, with no Docker and no root.

`python -m millstream.infra up` is its command; tests that restart single nodes may use
`millstream.infra.kafka.node` and `millstream.infra.redis` directly. Nothing else imports this
package.
"""
