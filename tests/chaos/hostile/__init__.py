"""Records of hostile sizes, in the middle of honest ones, and what has to become of each."""
