"""The `mbactor` command: `run`, `check` and `tree` of a topology file, `schema` of its format."""
