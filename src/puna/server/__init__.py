"""The HTTP server: Ollama's API, its middleware, and what other dialects are built on."""
