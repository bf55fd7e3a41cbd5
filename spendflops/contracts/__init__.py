"""What a plugin author reads: the four interfaces, their data types, the errors and the registry."""
