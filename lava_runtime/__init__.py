"""Lava processes and the worker that runs them. Importing this package needs neither torch nor Lava."""
