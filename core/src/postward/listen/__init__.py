"""Taking mail in: listeners, who may relay, and what is put in front of a message."""
