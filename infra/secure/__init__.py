"""Certificates, passwords and files of a deployment that trusts nobody unasked: `up --secure`."""
