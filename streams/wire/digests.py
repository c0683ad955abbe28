"""What stands for a checkpoint's content: a copy from elsewhere that differs is not the one."""

from __future__ import annotations

import json
from hashlib import blake2b

from millstream.schemas.events import CheckpointSaved

__all__ = ["digest_of"]


def digest_of(checkpoint: CheckpointSaved) -> str:
    """Give what stands for all that a run takes of a checkpoint."""
    named = [checkpoint.checkpoint_id, checkpoint.parent_id, checkpoint.turn, checkpoint.encoding]
    told = f"{json.dumps(named)}{checkpoint.data}"
    return blake2b(told.encode(), digest_size=16).hexdigest()
