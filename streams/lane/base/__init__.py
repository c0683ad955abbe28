"""What every part of a lane is built from."""
