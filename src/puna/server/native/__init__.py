"""Ollama's own dialect: a module for each group of routes."""
