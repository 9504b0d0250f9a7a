"""What looks at a host from within: run here, and sent as it is to hosts that are reached over SSH.

So it needs Python 3.8 and its library, and nothing of this package but itself.
"""
