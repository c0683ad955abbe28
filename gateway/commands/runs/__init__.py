"""`millstream runs`: the runs that are open, and what keeps each from going on."""
