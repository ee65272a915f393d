"""What does not drop blocks at run time, or prunes on top of another format."""
