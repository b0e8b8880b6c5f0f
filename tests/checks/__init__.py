"""Whether what is wrong with a machine is found."""
