"""From a message to MX hosts: routes, attempts, and the one function that decides."""
