"""Decisions about requests, without I/O: authentication, logging, cost, rate limit."""
