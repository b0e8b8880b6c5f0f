"""The settings: their schema, the rules over them, and how they are typed."""
