"""Where runs are executed: one interface, several engines, and one suite of tests that holds for all."""
