"""Making models: from a Modelfile or a request to layers, a config and a manifest."""
