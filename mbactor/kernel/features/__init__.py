"""The kernel's own features, one file each. `endpoint.py`: a typed request/reply method; `event.py`: what an actor
tells all that want to know; `sink.py`: a method run for each of those; `config.py`: a property that is set from
outside.
"""
