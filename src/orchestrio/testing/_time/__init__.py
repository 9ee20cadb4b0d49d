"""Event loops in virtual time, one module for each, and the orders in which their tasks step."""
