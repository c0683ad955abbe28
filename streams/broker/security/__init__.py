"""Kafka's security: what settings and files say of it, and connections that are made by it.

`live.live_security(settings)` is the one value that every client of Kafka is made from, by
`clients.py` and by Faust's transport. It is handed to aiokafka as its `ssl_context`, which aiokafka
passes on untouched from each client to each connection.
"""
