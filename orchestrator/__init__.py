"""A self-hosted Ollama cluster: placement, one endpoint, a router, an answer cache."""

__version__ = "0.1.0"
