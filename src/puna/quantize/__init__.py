"""Quantizing: a GGUF file's weights in types that take less room, by llama.cpp's rules and ggml's code."""
