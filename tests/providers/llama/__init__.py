"""llama.cpp's own server with the local model: a provider that nobody here wrote."""
