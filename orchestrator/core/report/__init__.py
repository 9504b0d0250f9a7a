"""What the request log says of a period: facts, what follows from them, and both as text. Pure."""
