"""LangChain's agent middlewares as templates name them, and those by which a template is kept."""
