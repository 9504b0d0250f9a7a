"""A simulated Ollama instance: its API as recorded, the time of a named card, and a mark on every answer."""
