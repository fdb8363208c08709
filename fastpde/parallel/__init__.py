"""Tokens on several processes: which are here, and how to reach the others. Nothing here knows what is summed."""
