"""Order support: an agent that looks up orders of a shop and refunds them."""
