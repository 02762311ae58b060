"""The model store on disk, in Ollama's layout: names, digests, blobs, manifests."""
