"""Models in the form of Hugging Face, safetensors and JSON, as GGUF files; one file per architecture."""
