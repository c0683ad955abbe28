"""A provider's words without the keys in them.

Providers and the gateways before them quote the key that they refuse. What they say stands in the
result, which users read, and in the log.
"""

from __future__ import annotations

import re

__all__ = ["redacted"]

_KEY = re.compile(
    r"\b(?:Bearer\s+[\w.~+/-]{8,}=*"  # RFC 6750
    r"|(?:sk|pk|rk|gsk|xai|r8|hf|ghp|gho|key)[-_][\w.*-]{8,}"
    r"|AIza[\w-]{16,}"  # Google
    r"|AKIA[0-9A-Z]{12,}"  # AWS
    r"|eyJ[\w-]{8,}(?:\.[\w-]+){0,2})",  # a JSON web token
    re.ASCII | re.IGNORECASE,
)


def redacted(words: str) -> str:
    """Give the words with everything that has the form of a key replaced by `[key]`."""
    return _KEY.sub("[key]", words)
