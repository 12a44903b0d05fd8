"""Above the rooms and below the command line: any model file as a `Model`, and all that can be asked of it.

model.py opens files; executors.py lists what runs them; the others hold one question each. docs/python.md.
"""
