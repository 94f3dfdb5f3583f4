"""Opening connections as a client."""
