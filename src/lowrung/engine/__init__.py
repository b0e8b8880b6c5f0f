"""Where runs are executed: one interface, one contract suite, several places."""
