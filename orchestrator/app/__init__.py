"""The composition root: everything is built once from settings here, and joined by handing functions across."""
