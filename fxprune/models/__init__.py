"""The user's models: by name, their weights, their inputs, how they are called."""
