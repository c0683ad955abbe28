"""What leaves a lane: results, checkpoints, snapshots."""
