"""What is kept: registry, artifacts, release files."""
