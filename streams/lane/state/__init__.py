"""What a lane knows: a fold of committed records, restored and snapshotted."""
