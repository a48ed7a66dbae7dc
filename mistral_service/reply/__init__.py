"""One reply as it comes: chunks to events."""
