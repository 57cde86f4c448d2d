"""Every config key: its meaning, unit, default and example, in one place; loading and rendering follow from it."""
