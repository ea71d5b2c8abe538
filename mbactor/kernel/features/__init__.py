"""The kernel's own features, one file each. `endpoint.py`: a typed request/reply method; `config.py`: a property
that is set from outside.
"""
