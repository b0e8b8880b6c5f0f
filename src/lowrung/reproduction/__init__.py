"""A recorded run is made again, and the results of both are compared to the bit."""
