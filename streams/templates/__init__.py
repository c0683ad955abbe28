"""Templates that are applied at run time: the topic that holds them, who applies, who follows."""
