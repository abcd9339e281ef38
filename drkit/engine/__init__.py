"""The Docker Engine: its API, helper containers, volumes and images. Knows nothing of repositories."""
