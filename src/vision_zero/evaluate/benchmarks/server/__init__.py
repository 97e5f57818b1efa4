"""A model behind an OpenAI-style API, for tools that cannot load it."""
