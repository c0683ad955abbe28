"""Tools of MCP servers: their connections, their lists of tools, and calls that may fail alone."""
