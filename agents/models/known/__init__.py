"""What is known of a model before it is called: by its name, its profile and its class."""
