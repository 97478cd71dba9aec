"""The registry: which versions there are, where their artefacts lie, which is in production, and why.

`registry.ModelRegistry` is the way in; its module says how the parts meet.
"""
