"""Taking mail in: listeners, who may use them, and the message on its way into the queue."""
