"""What is timed; each part has its own process, so a crash or hang ends only that part."""
