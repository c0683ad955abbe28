"""What is asked of workers beside requests: that runs stop or go on, that templates apply."""
