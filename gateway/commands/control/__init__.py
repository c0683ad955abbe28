"""Commands by which a user or an operator controls what was accepted before."""
