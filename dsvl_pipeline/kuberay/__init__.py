"""A job on Kubernetes: what is created there, and the client that creates it."""
