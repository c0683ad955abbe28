"""What a lane knows of its sessions: heads, states, cancels, and what was answered."""
