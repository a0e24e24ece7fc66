"""An internet on loopback, to see and to test the whole of Postward without one."""
