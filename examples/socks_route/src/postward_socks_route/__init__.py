"""Connections through a SOCKS5 proxy, and smarthosts for some domains."""
