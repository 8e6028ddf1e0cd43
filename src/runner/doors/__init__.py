"""The documented Python doors, thin: the decorator, the container, the handler."""
