"""How many hosts one controller can watch over SSH."""
