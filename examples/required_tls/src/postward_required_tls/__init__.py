"""TLS for a table of domains, with pinned keys or a certificate of the WebPKI."""
