"""What is answered over HTTP: the pages of plugins that are for strangers, such as policies and the place for reports."""
