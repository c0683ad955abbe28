"""MCP servers: real ones, made with the official SDK, and one that does what the SDK's cannot."""
