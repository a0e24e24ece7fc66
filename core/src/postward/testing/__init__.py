"""The in-memory sibling of the lab, for plugin authors: no sockets, no threads, no real time."""
