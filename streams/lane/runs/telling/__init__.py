"""What a lane tells of its runs: the tokens and steps of attempts, and the states of runs."""
