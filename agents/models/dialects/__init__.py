"""How each kind of provider's answers are read: what LangChain's class for it passes over."""
