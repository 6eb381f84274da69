"""Words about a run before it takes a step: its configuration, its table, and what cannot work."""
