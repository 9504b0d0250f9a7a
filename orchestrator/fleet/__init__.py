"""Hosts and models brought to what they should be, and kept so."""
