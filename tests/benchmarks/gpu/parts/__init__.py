"""What is timed, a part a process: a kernel that crashes or hangs ends its own part only."""
